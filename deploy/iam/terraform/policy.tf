# What the role may do, and who may be it. Nothing here needs AWS.

locals {
  pod_identity = {
    Effect    = "Allow"
    Principal = { Service = "pods.eks.amazonaws.com" }
    Action    = ["sts:AssumeRole", "sts:TagSession"]
    # Without aws:SourceArn: EKS documents no value of it for Pod Identity. The tags name cluster and pod.
    Condition = {
      StringEquals = {
        "aws:SourceAccount"                         = local.account
        "aws:RequestTag/eks-cluster-arn"            = "arn:${local.partition}:eks:${local.region}:${local.account}:cluster/${coalesce(var.cluster_name, "none")}"
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

  # As text on both sides: the two are of different types.
  trust = var.cluster_name != null ? jsonencode({
    Version   = "2012-10-17"
    Statement = [local.pod_identity]
    }) : jsonencode({
    Version   = "2012-10-17"
    Statement = [local.irsa]
  })

  # Each with whether it is needed.
  statements = [
    {
      needed = length(var.user_pool_arns) > 0
      Action = [
        "cognito-idp:AdminListUserAuthEvents",
        "cognito-idp:ListUsers",
        "cognito-idp:ListUsersInGroup",
        "cognito-idp:DescribeUserPool",
      ]
      Resource = var.user_pool_arns
    },
    {
      needed   = true
      Action   = "cognito-idp:GetProvisionedLimit"
      Resource = "*"
    },
    {
      needed   = length(var.export_log_group_arns) > 0
      Action   = "logs:FilterLogEvents"
      Resource = var.export_log_group_arns
    },
    {
      needed   = var.check_export && length(var.user_pool_arns) > 0
      Action   = "cognito-idp:GetLogDeliveryConfiguration"
      Resource = var.user_pool_arns
    },
    # Pod Identity's session tags are transitive, so assuming a further role sets them again.
    {
      needed   = length(var.target_role_arns) > 0
      Action   = ["sts:AssumeRole", "sts:TagSession"]
      Resource = var.target_role_arns
    },
  ]

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      for statement in local.statements :
      { Effect = "Allow", Action = statement.Action, Resource = statement.Resource } if statement.needed
    ]
  })
}
