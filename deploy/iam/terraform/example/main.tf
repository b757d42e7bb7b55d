# The exporter in one account, with two pools there and one pool in another account.

terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0"
    }
  }
}

provider "aws" {
  region = "eu-west-1"
}

provider "aws" {
  alias  = "shop"
  region = "eu-west-1"

  assume_role {
    role_arn = "arn:aws:iam::444455556666:role/terraform"
  }
}

variable "external_id" {
  type        = string
  description = "A random text, also pools[].external_id in the exporter's configuration."
}

module "exporter" {
  source = "../"

  cluster_name = "example"
  user_pool_arns = [
    "arn:aws:cognito-idp:eu-west-1:123456789012:userpool/eu-west-1_Example01",
    "arn:aws:cognito-idp:eu-central-1:123456789012:userpool/eu-central-1_Example02",
  ]
  # By its name, not by an output of target-role, which needs this role first.
  target_role_arns = ["arn:aws:iam::444455556666:role/cognito-auth-exporter-target"]
  tags             = { team = "identity" }
}

module "shop" {
  source    = "../target-role"
  providers = { aws = aws.shop }

  hub_role_arn   = module.exporter.role_arn
  external_id    = var.external_id
  user_pool_arns = ["arn:aws:cognito-idp:eu-west-1:444455556666:userpool/eu-west-1_Example03"]
  tags           = { team = "identity" }
}

output "role_arn" {
  value = module.exporter.role_arn
}

output "shop_role_arn" {
  value = module.shop.role_arn
}
