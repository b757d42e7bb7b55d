terraform {
  # Validations that compare two variables.
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source = "hashicorp/aws"
      # The attribute `region` of the data source aws_region.
      version = ">= 6.0"
    }
  }
}
