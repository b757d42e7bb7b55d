# A role with the least that the exporter needs, for EKS: Pod Identity where cluster_name is given, else IRSA.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.30"
    }
  }
}

variable "user_pool_id" {
  type        = string
  description = "The user pool, in the provider's account and region."
}

variable "cluster_name" {
  type        = string
  default     = null
  description = "Pod Identity: the EKS cluster, which has the agent."
}

variable "oidc_provider" {
  type        = string
  default     = null
  description = "IRSA: the cluster's OIDC issuer without https://."
}

variable "namespace" {
  type    = string
  default = "cognito-auth-exporter"
}

variable "service_account" {
  type    = string
  default = "cognito-auth-exporter"
}

variable "export_log_group" {
  type        = string
  default     = null
  description = "The log group of pools[].export.log_group, in the provider's account and region."
}

variable "check_export" {
  type        = bool
  default     = false
  description = "Whether `check` may read where the pool's export goes to."
}

data "aws_caller_identity" "here" {}
data "aws_partition" "here" {}
data "aws_region" "here" {}

locals {
  account   = data.aws_caller_identity.here.account_id
  partition = data.aws_partition.here.partition
  region    = data.aws_region.here.name
  user_pool = "arn:${local.partition}:cognito-idp:${local.region}:${local.account}:userpool/${var.user_pool_id}"
  log_group = "arn:${local.partition}:logs:${local.region}:${local.account}:log-group:${coalesce(var.export_log_group, "none")}:*"

  pod_identity = {
    Effect    = "Allow"
    Principal = { Service = "pods.eks.amazonaws.com" }
    Action    = ["sts:AssumeRole", "sts:TagSession"]
    Condition = {
      StringEquals = {
        "aws:SourceAccount"                         = local.account
        "aws:RequestTag/kubernetes-namespace"       = var.namespace
        "aws:RequestTag/kubernetes-service-account" = var.service_account
      }
    }
  }

  irsa = {
    Effect    = "Allow"
    Principal = { Federated = "arn:${local.partition}:iam::${local.account}:oidc-provider/${coalesce(var.oidc_provider, "none")}" }
    Action    = "sts:AssumeRoleWithWebIdentity"
    Condition = {
      StringEquals = {
        "${coalesce(var.oidc_provider, "none")}:aud" = "sts.amazonaws.com"
        "${coalesce(var.oidc_provider, "none")}:sub" = "system:serviceaccount:${var.namespace}:${var.service_account}"
      }
    }
  }
}

resource "aws_iam_role" "exporter" {
  name = "cognito-auth-exporter"
  # As text on both sides: the two are of different types.
  assume_role_policy = var.cluster_name != null ? jsonencode({
    Version   = "2012-10-17"
    Statement = [local.pod_identity]
    }) : jsonencode({
    Version   = "2012-10-17"
    Statement = [local.irsa]
  })

  lifecycle {
    precondition {
      condition     = (var.cluster_name == null) != (var.oidc_provider == null)
      error_message = "Give cluster_name (Pod Identity) or oidc_provider (IRSA)."
    }
  }
}

resource "aws_iam_role_policy" "exporter" {
  name = "cognito-auth-exporter"
  role = aws_iam_role.exporter.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect = "Allow"
        Action = [
          "cognito-idp:AdminListUserAuthEvents",
          "cognito-idp:ListUsers",
          "cognito-idp:ListUsersInGroup",
          "cognito-idp:DescribeUserPool",
        ]
        Resource = local.user_pool
      },
      {
        Effect   = "Allow"
        Action   = "cognito-idp:GetProvisionedLimit"
        Resource = "*"
      },
    ]
  })
}

# What reading the export of a pool needs besides.
resource "aws_iam_role_policy" "export_log_group" {
  count = var.export_log_group != null ? 1 : 0
  name  = "cognito-auth-exporter-export-log-group"
  role  = aws_iam_role.exporter.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect   = "Allow"
        Action   = "logs:FilterLogEvents"
        Resource = local.log_group
      },
    ]
  })
}

resource "aws_iam_role_policy" "check_export" {
  count = var.check_export ? 1 : 0
  name  = "cognito-auth-exporter-check-export"
  role  = aws_iam_role.exporter.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect   = "Allow"
        Action   = "cognito-idp:GetLogDeliveryConfiguration"
        Resource = local.user_pool
      },
    ]
  })
}

resource "aws_eks_pod_identity_association" "exporter" {
  count           = var.cluster_name != null ? 1 : 0
  cluster_name    = var.cluster_name
  namespace       = var.namespace
  service_account = var.service_account
  role_arn        = aws_iam_role.exporter.arn
}

output "role_arn" {
  description = "For the service account's annotation eks.amazonaws.com/role-arn (IRSA)."
  value       = aws_iam_role.exporter.arn
}
