# What the role may do, and who may be it. Nothing here needs AWS.

locals {
  trust = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect    = "Allow"
        Principal = { AWS = var.hub_role_arn }
        Action    = "sts:AssumeRole"
        Condition = { StringEquals = { "sts:ExternalId" = var.external_id } }
      },
      # Pod Identity's session tags are transitive: the session of the exporter's role sets them here again. The external
      # id is a key of sts:AssumeRole alone.
      {
        Effect    = "Allow"
        Principal = { AWS = var.hub_role_arn }
        Action    = "sts:TagSession"
      },
    ]
  })

  user_pools = length(var.user_pool_arns) > 0 ? var.user_pool_arns : ["arn:${local.partition}:cognito-idp:*:${local.account}:userpool/*"]

  # Each with whether it is needed.
  statements = [
    {
      needed = true
      Action = [
        "cognito-idp:AdminListUserAuthEvents",
        "cognito-idp:ListUsers",
        "cognito-idp:ListUsersInGroup",
        "cognito-idp:DescribeUserPool",
      ]
      Resource = local.user_pools
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
      needed   = var.check_export
      Action   = "cognito-idp:GetLogDeliveryConfiguration"
      Resource = local.user_pools
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
