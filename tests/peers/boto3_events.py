"""Pages through a user's auth events with boto3's paginator.

Usage: boto3_events.py URL POOL USER < PAGINATION_CONFIGS

Reads a JSON list of PaginationConfigs and prints a JSON list. For each it prints the pages and the resume token, or the
name of the exception.
"""

import datetime
import json
import sys

import boto3
from botocore.config import Config

URL, POOL, USER = sys.argv[1:]


def written(value):
    """A time as RFC 3339 in UTC with milliseconds."""
    if isinstance(value, datetime.datetime):
        in_utc = value.astimezone(datetime.timezone.utc).isoformat(timespec="milliseconds")
        return in_utc.replace("+00:00", "Z")
    raise TypeError(type(value))


def paginate(paginator, config):
    events, error = [], None
    pages = paginator.paginate(UserPoolId=POOL, Username=USER, PaginationConfig=config)
    try:
        for page in pages:
            events.extend(page["AuthEvents"])
    except Exception as exception:
        error = type(exception).__name__
    return {"Events": events, "NextToken": pages.resume_token, "Error": error}


once = Config(retries={"total_max_attempts": 1})
client = boto3.client("cognito-idp", endpoint_url=URL, region_name="eu-west-1", config=once)
paginator = client.get_paginator("admin_list_user_auth_events")
json.dump([paginate(paginator, config) for config in json.load(sys.stdin)], sys.stdout, default=written)
