#!/usr/bin/env bash
# The queues and the table of localstack/seed.py, made inside of the container when it is ready.
set -euo pipefail

create() { # name, dead-letter queue's name, further attributes
  local dead_url dead_arn policy
  local common='"MessageRetentionPeriod":"1209600","ReceiveMessageWaitTimeSeconds":"20","SqsManagedSseEnabled":"true"'
  dead_url=$(awslocal sqs create-queue --queue-name "$2" --attributes "{$common$3}" \
    --query QueueUrl --output text)
  dead_arn=$(awslocal sqs get-queue-attributes --queue-url "$dead_url" \
    --attribute-names QueueArn --query Attributes.QueueArn --output text)
  policy="{\\\"deadLetterTargetArn\\\":\\\"$dead_arn\\\",\\\"maxReceiveCount\\\":\\\"10\\\"}"
  awslocal sqs create-queue --queue-name "$1" \
    --attributes "{$common$3,\"VisibilityTimeout\":\"60\",\"RedrivePolicy\":\"$policy\"}" >/dev/null
}

create default default-dead ""
create high high-dead ""
create orders.fifo orders-dead.fifo ',"FifoQueue":"true"'

awslocal dynamodb create-table --table-name cloudq --billing-mode PAY_PER_REQUEST \
  --attribute-definitions AttributeName=pk,AttributeType=S AttributeName=sk,AttributeType=S \
  --key-schema AttributeName=pk,KeyType=HASH AttributeName=sk,KeyType=RANGE >/dev/null
awslocal dynamodb wait table-exists --table-name cloudq
awslocal dynamodb update-time-to-live --table-name cloudq \
  --time-to-live-specification Enabled=true,AttributeName=expires >/dev/null
