variable "hub_role_arn" {
  type        = string
  description = "The exporter's own role, the output role_arn of the module above. IAM refuses a role that is not there."

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]+$", var.hub_role_arn))
    error_message = "The ARN of one role."
  }
}

variable "external_id" {
  type        = string
  description = "The external_id of the pools. STS gives the role to nobody without it."

  validation {
    condition     = can(regex("^[A-Za-z0-9+=,.@:/_-]+$", var.external_id)) && length(var.external_id) >= 2 && length(var.external_id) <= 1224
    error_message = "The external id has 2 to 1224 letters, digits and characters of +=,.@:/_-."
  }
}

variable "user_pool_arns" {
  type        = list(string)
  default     = []
  description = "ARNs of the user pools in the provider's account. Empty for each pool of the account."

  validation {
    condition     = alltrue([for arn in var.user_pool_arns : can(regex("^arn:aws[a-z-]*:cognito-idp:[a-z0-9-]+:[0-9]{12}:userpool/[A-Za-z0-9_-]+$", arn))])
    error_message = "Each is the ARN of one user pool."
  }
}

variable "export_log_group_arns" {
  type        = list(string)
  default     = []
  description = "ARNs of the log groups of pools[].export.log_group, with :* at the end."

  validation {
    condition     = alltrue([for arn in var.export_log_group_arns : can(regex("^arn:aws[a-z-]*:logs:[a-z0-9-]+:[0-9]{12}:log-group:[A-Za-z0-9._/#-]{1,512}:\\*$", arn))])
    error_message = "Each is the ARN of a log group, with :* at the end."
  }
}

variable "check_export" {
  type        = bool
  default     = false
  description = "Whether `check` may read where the pools' exports go to."
}

variable "name" {
  type    = string
  default = "cognito-auth-exporter-target"
}

variable "path" {
  type    = string
  default = "/"
}

variable "permissions_boundary" {
  type        = string
  default     = null
  description = "ARN of the policy that bounds the role."
}

variable "tags" {
  type        = map(string)
  default     = {}
  description = "Tags of the role."
}
