variable "user_pool_arns" {
  type        = list(string)
  default     = []
  description = "ARNs of the user pools in the provider's account, in any region."

  validation {
    condition     = alltrue([for arn in var.user_pool_arns : can(regex("^arn:aws[a-z-]*:cognito-idp:[a-z0-9-]+:[0-9]{12}:userpool/[A-Za-z0-9_-]+$", arn))])
    error_message = "Each is the ARN of one user pool."
  }
}

variable "target_role_arns" {
  type        = list(string)
  default     = []
  description = "Roles of other accounts (pools[].role_arn). An account of * stands for each account."

  validation {
    condition     = alltrue([for arn in var.target_role_arns : can(regex("^arn:aws[a-z-]*:iam::([0-9]{12}|\\*):role/[A-Za-z0-9+=,.@_/-]+$", arn))])
    error_message = "Each is the ARN of a role; only its account may be *."
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

variable "cluster_name" {
  type        = string
  default     = null
  description = "Pod Identity: the EKS cluster in the provider's account and region, which has the agent. Null for IRSA."

  validation {
    condition     = var.cluster_name == null || var.oidc_provider == null
    error_message = "Give cluster_name (Pod Identity) or oidc_provider (IRSA), not both."
  }

  validation {
    condition     = var.cluster_name != null || var.oidc_provider != null
    error_message = "Give cluster_name (Pod Identity) or oidc_provider (IRSA)."
  }
}

variable "oidc_provider" {
  type        = string
  default     = null
  description = "IRSA: the cluster's OIDC issuer without https://. Null for Pod Identity."

  validation {
    condition     = var.oidc_provider == null || can(regex("^[a-z0-9.-]+(/[A-Za-z0-9/_-]+)?$", var.oidc_provider))
    error_message = "The issuer has no https:// here."
  }
}

variable "namespace" {
  type    = string
  default = "cognito-auth-exporter"
}

variable "service_account" {
  type    = string
  default = "cognito-auth-exporter"
}

variable "name" {
  type    = string
  default = "cognito-auth-exporter"
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
  description = "Tags of the role and of the association."
}
