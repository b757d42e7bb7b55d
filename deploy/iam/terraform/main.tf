# The exporter's own role, with the least that it needs, for EKS: Pod Identity where cluster_name is given, else IRSA.
# Pools of other accounts: target_role_arns here, and the module target-role there. `example` has both.

data "aws_caller_identity" "here" {}
data "aws_partition" "here" {}
data "aws_region" "here" {}

locals {
  account   = data.aws_caller_identity.here.account_id
  partition = data.aws_partition.here.partition
  region    = data.aws_region.here.region
}

resource "aws_iam_role" "exporter" {
  name                 = var.name
  path                 = var.path
  description          = "Reads Cognito's auth events for cognito-auth-exporter"
  permissions_boundary = var.permissions_boundary
  assume_role_policy   = local.trust
  tags                 = var.tags
}

resource "aws_iam_role_policy" "exporter" {
  name   = "cognito-auth-exporter"
  role   = aws_iam_role.exporter.id
  policy = local.policy
}

resource "aws_eks_pod_identity_association" "exporter" {
  count           = var.cluster_name != null ? 1 : 0
  cluster_name    = var.cluster_name
  namespace       = var.namespace
  service_account = var.service_account
  role_arn        = aws_iam_role.exporter.arn
  tags            = var.tags
}
