output "role_arn" {
  description = "For the service account's annotation eks.amazonaws.com/role-arn (IRSA), and hub_role_arn of target-role."
  value       = aws_iam_role.exporter.arn
}

output "role_name" {
  description = "For further policies of your own."
  value       = aws_iam_role.exporter.name
}
