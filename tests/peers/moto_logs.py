"""Serves CloudWatch Logs with moto, writes log events to it with boto3, and serves until its standard input ends.

Usage: moto_logs.py GROUP < LINES

Each line of the input is a command as JSON, and each answer is a line of the output. The first line of the output has the
URL. {"stream": S, "events": [{"timestamp": MS, "message": TEXT}]} writes log events with PutLogEvents.
"""

import json
import logging
import sys

import boto3
from botocore.config import Config
from moto.server import ThreadedMotoServer

[GROUP] = sys.argv[1:]
logging.getLogger("werkzeug").setLevel(logging.ERROR)


def say(answer):
    print(json.dumps(answer), flush=True)


server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
url = f"http://{host}:{port}"
logs = boto3.client("logs", endpoint_url=url, region_name="us-west-2", config=Config(retries={"total_max_attempts": 1}))
logs.create_log_group(logGroupName=GROUP)
say({"url": url})
streams = set()
for line in sys.stdin:
    command = json.loads(line)
    stream = command["stream"]
    if stream not in streams:
        logs.create_log_stream(logGroupName=GROUP, logStreamName=stream)
        streams.add(stream)
    answer = logs.put_log_events(logGroupName=GROUP, logStreamName=stream, logEvents=command["events"])
    say({"rejected": answer.get("rejectedLogEventsInfo")})
server.stop()
