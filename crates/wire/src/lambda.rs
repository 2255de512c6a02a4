//! JSON shapes of the AWS Lambda API (`botocore/data/lambda/2015-03-31/service-2.json`).
