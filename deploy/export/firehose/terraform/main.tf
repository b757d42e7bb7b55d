# Cognito's own export of a pool's events to Data Firehose, which sends them to the exporter's endpoint (firehose.listen,
# behind HTTPS on port 443). What the endpoint did not take for two hours goes to the backup bucket. A pool has one
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

variable "endpoint_url" {
  type        = string
  description = "The exporter's endpoint, with a certificate of a public authority, on port 443."

  validation {
    condition     = startswith(var.endpoint_url, "https://")
    error_message = "Data Firehose sends to HTTPS only."
  }
}

variable "access_key" {
  type        = string
  sensitive   = true
  description = "One of the lines of firehose.access_keys_file. Terraform's state holds it."

  validation {
    condition     = length(var.access_key) >= 32 && length(var.access_key) <= 4096
    error_message = "The access key has 32 to 4096 characters."
  }
}

variable "buffer_seconds" {
  type        = number
  default     = 10
  description = "How long Firehose gathers records before it sends them; 0 to 900."
}

variable "retry_seconds" {
  type        = number
  default     = 7200
  description = "How long Firehose tries again before it writes to the backup bucket; 0 to 7200."
}

variable "backup_days" {
  type        = number
  default     = 30
  description = "How long the backup is kept. Its records hold usernames and addresses."
}

data "aws_caller_identity" "here" {}

resource "aws_kinesis_firehose_delivery_stream" "export" {
  name        = "cognito-export-${lower(replace(var.user_pool_id, "_", "-"))}"
  destination = "http_endpoint"

  server_side_encryption {
    enabled  = true
    key_type = "AWS_OWNED_CMK"
  }

  http_endpoint_configuration {
    name               = "cognito-auth-exporter"
    url                = var.endpoint_url
    access_key         = var.access_key
    role_arn           = aws_iam_role.firehose.arn
    buffering_interval = var.buffer_seconds
    # Small requests: a proxy before the endpoint may refuse large ones with 413, which Firehose takes as final.
    buffering_size = 4
    retry_duration = var.retry_seconds
    s3_backup_mode = "FailedDataOnly"

    request_configuration {
      content_encoding = "GZIP"
    }

    cloudwatch_logging_options {
      enabled         = true
      log_group_name  = aws_cloudwatch_log_group.errors.name
      log_stream_name = aws_cloudwatch_log_stream.errors.name
    }

    s3_configuration {
      role_arn           = aws_iam_role.firehose.arn
      bucket_arn         = aws_s3_bucket.backup.arn
      compression_format = "GZIP"
    }
  }

  # AWS's role for the delivery of logs writes to streams with this tag only. Cognito sets it, too.
  tags = {
    LogDeliveryEnabled = "true"
  }

  depends_on = [aws_iam_role_policy.firehose]
}

resource "aws_cognito_log_delivery_configuration" "export" {
  user_pool_id = var.user_pool_id

  log_configurations {
    event_source = "userAuthEvents"
    log_level    = "INFO"

    firehose_configuration {
      stream_arn = aws_kinesis_firehose_delivery_stream.export.arn
    }
  }
}

# Events that are nowhere else: Terraform removes the bucket only when it is empty.
resource "aws_s3_bucket" "backup" {
  bucket_prefix = "cognito-export-backup-"
  force_destroy = false
}

resource "aws_s3_bucket_server_side_encryption_configuration" "backup" {
  bucket = aws_s3_bucket.backup.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_public_access_block" "backup" {
  bucket                  = aws_s3_bucket.backup.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "backup" {
  bucket = aws_s3_bucket.backup.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "backup" {
  bucket = aws_s3_bucket.backup.id

  rule {
    id     = "expire"
    status = "Enabled"

    filter {}

    expiration {
      days = var.backup_days
    }

    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }
}

resource "aws_s3_bucket_policy" "backup" {
  bucket = aws_s3_bucket.backup.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = [aws_s3_bucket.backup.arn, "${aws_s3_bucket.backup.arn}/*"]
        Condition = {
          Bool = { "aws:SecureTransport" = "false" }
        }
      },
    ]
  })

  depends_on = [aws_s3_bucket_public_access_block.backup]
}

# Firehose's own errors: what the endpoint answered.
resource "aws_cloudwatch_log_group" "errors" {
  name_prefix       = "/aws/kinesisfirehose/cognito-export-"
  retention_in_days = 30
}

resource "aws_cloudwatch_log_stream" "errors" {
  name           = "errors"
  log_group_name = aws_cloudwatch_log_group.errors.name
}

resource "aws_iam_role" "firehose" {
  name_prefix = "cognito-export-firehose-"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect    = "Allow"
        Principal = { Service = "firehose.amazonaws.com" }
        Action    = "sts:AssumeRole"
        Condition = {
          StringEquals = { "sts:ExternalId" = data.aws_caller_identity.here.account_id }
        }
      },
    ]
  })
}

resource "aws_iam_role_policy" "firehose" {
  name = "backup"
  role = aws_iam_role.firehose.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect = "Allow"
        Action = [
          "s3:AbortMultipartUpload",
          "s3:GetBucketLocation",
          "s3:GetObject",
          "s3:ListBucket",
          "s3:ListBucketMultipartUploads",
          "s3:PutObject",
        ]
        Resource = [aws_s3_bucket.backup.arn, "${aws_s3_bucket.backup.arn}/*"]
      },
      {
        Effect   = "Allow"
        Action   = "logs:PutLogEvents"
        Resource = "${aws_cloudwatch_log_group.errors.arn}:*"
      },
    ]
  })
}

output "stream_arn" {
  description = "The stream."
  value       = aws_kinesis_firehose_delivery_stream.export.arn
}

output "backup_bucket" {
  description = "Records that the endpoint did not take."
  value       = aws_s3_bucket.backup.id
}
