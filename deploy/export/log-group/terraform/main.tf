# Cognito's own export of a pool's events to a log group, which the exporter reads (pools[].export.log_group). A pool has one
# configuration of its logs: this one replaces a configuration that is there, such as that of userNotification.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.7"
    }
  }
}

variable "user_pool_id" {
  type        = string
  description = "The user pool, in the provider's account and region, on the Plus plan with threat protection."
}

variable "log_group_name" {
  type        = string
  default     = null
  description = "The log group. /aws/vendedlogs/cognito/ and the pool where it is null."

  validation {
    condition     = var.log_group_name == null || startswith(coalesce(var.log_group_name, "-"), "/aws/vendedlogs/")
    error_message = "The name begins with /aws/vendedlogs/."
  }
}

variable "retention_days" {
  type        = number
  default     = 30
  description = "How long the records are kept. They hold usernames and addresses."
}

# Without kms_key_id: Cognito delivers to no log group that a key of KMS encrypts (its API reference,
# CloudWatchLogsConfigurationType). CloudWatch Logs encrypts every log group with a key of its own.
resource "aws_cloudwatch_log_group" "export" {
  # CloudWatch Logs extends no resource policy for each group of this prefix.
  name = coalesce(var.log_group_name, "/aws/vendedlogs/cognito/${var.user_pool_id}")
  # FilterLogEvents reads no other class.
  log_group_class   = "STANDARD"
  retention_in_days = var.retention_days
}

resource "aws_cognito_log_delivery_configuration" "export" {
  user_pool_id = var.user_pool_id

  log_configurations {
    event_source = "userAuthEvents"
    log_level    = "INFO"

    cloud_watch_logs_configuration {
      log_group_arn = aws_cloudwatch_log_group.export.arn
    }
  }
}

output "log_group" {
  description = "For pools[].export.log_group, and for the variable export_log_group of deploy/iam."
  value       = aws_cloudwatch_log_group.export.name
}
