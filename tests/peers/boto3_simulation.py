"""Reads the simulated Cognito with boto3, AWS's own client, and prints the results as one JSON document.

Usage: boto3_simulation.py URL POOL USER ROLE_ARN EXTERNAL_ID
"""

import datetime
import json
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

URL, POOL, USER, ROLE_ARN, EXTERNAL_ID = sys.argv[1:]
ONCE = Config(retries={"total_max_attempts": 1})


def client(service, **credentials):
    return boto3.client(service, endpoint_url=URL, region_name="eu-west-1", config=ONCE, **credentials)


def error_of(call, **parameters):
    """The error code of a call."""
    try:
        call(**parameters)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return None


def written(value):
    """A time as RFC 3339 with milliseconds."""
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.timezone.utc).isoformat(timespec="milliseconds")
    raise TypeError(type(value))


cognito = client("cognito-idp")
sts = client("sts")
events_pages = list(cognito.get_paginator("admin_list_user_auth_events").paginate(UserPoolId=POOL, Username=USER))
users_pages = list(cognito.get_paginator("list_users").paginate(UserPoolId=POOL, PaginationConfig={"PageSize": 25}))
members_pages = cognito.get_paginator("list_users_in_group").paginate(UserPoolId=POOL, GroupName="everybody")

events = cognito.admin_list_user_auth_events
errors = {
    "unknown user": error_of(events, UserPoolId=POOL, Username="nobody"),
    "unknown pool": error_of(events, UserPoolId="eu-west-1_Nowhere", Username=USER),
    "page too large": error_of(events, UserPoolId=POOL, Username=USER, MaxResults=61),
    "senseless token": error_of(events, UserPoolId=POOL, Username=USER, NextToken="senseless"),
    "throttled": error_of(events, UserPoolId=POOL, Username="throttled"),
    "server error": error_of(events, UserPoolId=POOL, Username="failing"),
    "billable call": error_of(cognito.admin_get_user, UserPoolId=POOL, Username=USER),
    "absent group": error_of(cognito.list_users_in_group, UserPoolId=POOL, GroupName="absent"),
    "bad filter": error_of(cognito.list_users, UserPoolId=POOL, Filter="email > 1"),
    "wrong external id": error_of(sts.assume_role, RoleArn=ROLE_ARN, RoleSessionName="peer", ExternalId="wrong"),
}

keys = sts.assume_role(RoleArn=ROLE_ARN, RoleSessionName="peer", ExternalId=EXTERNAL_ID)["Credentials"]
as_role = {
    "aws_access_key_id": keys["AccessKeyId"],
    "aws_secret_access_key": keys["SecretAccessKey"],
    "aws_session_token": keys["SessionToken"],
}

json.dump(
    {
        "AuthEvents": [event for page in events_pages for event in page["AuthEvents"]],
        "EventPages": len(events_pages),
        "Users": [user for page in users_pages for user in page["Users"]],
        "UserPages": len(users_pages),
        "Members": [user["Username"] for page in members_pages for user in page["Users"]],
        "Pool": cognito.describe_user_pool(UserPoolId=POOL)["UserPool"],
        "RoleArn": client("sts", **as_role).get_caller_identity()["Arn"],
        "Errors": errors,
    },
    sys.stdout,
    default=written,
)
