"""Origins on AWS: `s3`, `dynamodb` and `athena`. Import the one you need; boto3 is imported at the first load."""
