"""Reads a simulated log group with boto3, AWS's own client, and prints the results as one JSON document.

Usage: boto3_logs.py URL POOL LOG_GROUP LOG_GROUP_ARN START_MS END_MS
"""

import json
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

URL, POOL, GROUP, ARN, START, END = sys.argv[1:]
ONCE = Config(retries={"total_max_attempts": 1})


def client(service, region="eu-west-1"):
    return boto3.client(service, endpoint_url=URL, region_name=region, config=ONCE)


def error_of(call, **parameters):
    """The error code of a call."""
    try:
        call(**parameters)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return None


logs = client("logs")
filter_log_events = logs.get_paginator("filter_log_events")
pages = list(filter_log_events.paginate(logGroupName=GROUP, PaginationConfig={"PageSize": 30}))
part = filter_log_events.paginate(logGroupIdentifier=ARN, startTime=int(START), endTime=int(END))

errors = {
    "absent log group": error_of(logs.filter_log_events, logGroupName="absent"),
    "another region": error_of(client("logs", "eu-west-2").filter_log_events, logGroupName=GROUP),
    "two names": error_of(logs.filter_log_events, logGroupName=GROUP, logGroupIdentifier=GROUP),
    "senseless token": error_of(logs.filter_log_events, logGroupName=GROUP, nextToken="senseless"),
    "denied": error_of(logs.filter_log_events, logGroupName="denied"),
    "throttled": error_of(logs.filter_log_events, logGroupName="throttled"),
    "unknown operation": error_of(logs.describe_log_groups),
}
delivery = client("cognito-idp").get_log_delivery_configuration(UserPoolId=POOL)

json.dump(
    {
        "Events": [event for page in pages for event in page["events"]],
        "Pages": len(pages),
        "Part": [event["eventId"] for page in part for event in page["events"]],
        "Delivery": delivery["LogDeliveryConfiguration"],
        "Errors": errors,
    },
    sys.stdout,
)
