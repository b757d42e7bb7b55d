# A role in another account, which the exporter's own role assumes (pools[].role_arn, with pools[].external_id).

data "aws_caller_identity" "here" {}
data "aws_partition" "here" {}

locals {
  account   = data.aws_caller_identity.here.account_id
  partition = data.aws_partition.here.partition
}

resource "aws_iam_role" "target" {
  name                 = var.name
  path                 = var.path
  description          = "Lets cognito-auth-exporter of another account read Cognito's auth events"
  permissions_boundary = var.permissions_boundary
  assume_role_policy   = local.trust
  tags                 = var.tags
}

resource "aws_iam_role_policy" "target" {
  name   = "cognito-auth-exporter"
  role   = aws_iam_role.target.id
  policy = local.policy
}
