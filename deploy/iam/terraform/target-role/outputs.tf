output "role_arn" {
  description = "For pools[].role_arn, and for target_role_arns of the module above."
  value       = aws_iam_role.target.arn
}
