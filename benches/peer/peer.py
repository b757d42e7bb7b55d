"""The usual alternative: the same work with boto3, opentelemetry-python and prometheus_client.

Lists a pool's users, reads each user's auth events back to the last-seen id, and exports every new event as an OTLP log
record. Once the receiver has acknowledged them, it counts them and stores the cursors. The script is efficient: one
thread, one connection to each server, records of many users in one export, cursors of many users in one transaction, and
nothing looked up twice.

It does less than the exporter: no revisions, no late arrivals, no quarantine, no outbox, no budget, no back-off. It stops
when an export fails. Events that were exported before that and not stored are exported and counted again.
"""

import argparse
import json
import sqlite3
import sys
import time
from pathlib import Path

import boto3
from botocore.config import Config
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import Counter, start_http_server

BATCH_SIZE = 512

LABELS = ["user_pool_id", "event_type", "event_response", "risk_decision"]
EVENTS = Counter("cognito_auth_events", "Auth events by outcome.", LABELS)
RESOURCE = Resource.create({"service.name": "peer"})
SCOPE = InstrumentationScope("peer")


def attributes(pool, user, event):
    """The attributes of the log record for which the event has values."""
    risk = event.get("EventRisk", {})
    context = event.get("EventContextData", {})
    feedback = event.get("EventFeedback", {})
    challenges = event.get("ChallengeResponses", [])
    values = {
        "log.record.uid": event["EventId"],
        "aws.cognito.user_pool.id": pool,
        "aws.cognito.user_pool.region": pool.partition("_")[0],
        "aws.cognito.event.id": event["EventId"],
        "aws.cognito.event.type": event.get("EventType"),
        "aws.cognito.event.response": event.get("EventResponse"),
        "aws.cognito.event.creation_date": event["CreationDate"].isoformat(timespec="milliseconds"),
        "aws.cognito.risk.decision": risk.get("RiskDecision"),
        "aws.cognito.risk.level": risk.get("RiskLevel"),
        "aws.cognito.risk.compromised_credentials": risk.get("CompromisedCredentialsDetected"),
        "aws.cognito.challenges": [f"{it.get('ChallengeName')}={it.get('ChallengeResponse')}" for it in challenges],
        "user.name": user,
        "client.address": context.get("IpAddress"),
        "aws.cognito.device.name": context.get("DeviceName"),
        "aws.cognito.timezone": context.get("Timezone"),
        "geo.locality.name": context.get("City"),
        "aws.cognito.country": context.get("Country"),
        "aws.cognito.feedback.value": feedback.get("FeedbackValue"),
    }
    return {name: value for name, value in values.items() if value not in (None, [])}


def record(pool, user, event):
    """The log record of an event."""
    is_grave = event.get("EventRisk", {}).get("RiskLevel") == "High" and event.get("EventResponse") != "Fail"
    severity = SeverityNumber.ERROR if is_grave else SeverityNumber.INFO
    log_record = LogRecord(
        timestamp=int(event["CreationDate"].timestamp() * 1000) * 1_000_000,
        observed_timestamp=time.time_ns(),
        severity_number=severity,
        severity_text=severity.name,
        body=f"{event.get('EventType')} of {user}: {event.get('EventResponse')}",
        attributes=attributes(pool, user, event),
        event_name="aws.cognito.auth",
    )
    return ReadableLogRecord(log_record=log_record, resource=RESOURCE, instrumentation_scope=SCOPE)


class Peer:
    def __init__(self, options):
        self.pool = options.pool
        self.page_size = options.page_size
        self.skips_history = options.skip_history
        region = self.pool.partition("_")[0]
        self.client = boto3.client("cognito-idp", region_name=region, config=Config(retries={"mode": "standard"}))
        self.exporter = OTLPLogExporter(endpoint=f"{options.otlp}/v1/logs", compression=Compression.Gzip)
        self.store = sqlite3.connect(options.state)
        self.store.execute("PRAGMA journal_mode=WAL")
        self.store.execute("PRAGMA synchronous=FULL")
        self.store.execute("CREATE TABLE IF NOT EXISTS seen (user TEXT PRIMARY KEY, event TEXT NOT NULL)")
        self.seen = dict(self.store.execute("SELECT user, event FROM seen"))
        # The pending export: pairs of user and event, and the cursors after it.
        self.waiting, self.cursors = [], {}
        self.calls = self.events = 0

    def users(self):
        pages = self.client.get_paginator("list_users").paginate(UserPoolId=self.pool)
        return [user["Username"] for page in pages for user in page["Users"]]

    def new_events(self, user):
        """A user's events since the last-seen one, newest first."""
        last, found = self.seen.get(user), []
        arguments = {"UserPoolId": self.pool, "Username": user, "MaxResults": self.page_size}
        while True:
            page = self.client.admin_list_user_auth_events(**arguments)
            self.calls += 1
            for event in page["AuthEvents"]:
                if event["EventId"] == last:
                    return found
                found.append(event)
            if "NextToken" not in page or (last is None and self.skips_history):
                return found
            arguments["NextToken"] = page["NextToken"]

    def poll(self, user):
        events = self.new_events(user)
        if not events:
            return
        self.cursors[user] = events[0]["EventId"]
        if self.skips_history and user not in self.seen:
            return
        self.waiting.extend((user, event) for event in events)
        if len(self.waiting) >= BATCH_SIZE:
            self.flush()

    def flush(self):
        """Exports the pending events, then counts them and stores the cursors."""
        for start in range(0, len(self.waiting), BATCH_SIZE):
            batch = [record(self.pool, user, event) for user, event in self.waiting[start : start + BATCH_SIZE]]
            if self.exporter.export(batch) is not LogRecordExportResult.SUCCESS:
                raise RuntimeError("the receiver did not take a batch")
        with self.store:
            self.store.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?)", self.cursors.items())
        self.seen.update(self.cursors)
        for _, event in self.waiting:
            decision = event.get("EventRisk", {}).get("RiskDecision", "none")
            EVENTS.labels(self.pool, event.get("EventType", "none"), event.get("EventResponse", "none"), decision).inc()
        self.events += len(self.waiting)
        self.waiting, self.cursors = [], {}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", required=True)
    parser.add_argument("--otlp", required=True, help="the receiver's base URL")
    parser.add_argument("--state", required=True, type=Path, help="where the cursors are stored")
    parser.add_argument("--page-size", type=int, default=60)
    parser.add_argument("--skip-history", action="store_true", help="of a user met for the first time export nothing")
    parser.add_argument("--pause", type=float, default=60.0, help="seconds between two rounds")
    options = parser.parse_args()
    peer = Peer(options)
    server, _ = start_http_server(0, addr="127.0.0.1")
    print(json.dumps({"ready": True, "port": server.server_port}), flush=True)
    users = peer.users()
    while True:
        for user in users:
            peer.poll(user)
        peer.flush()
        print(json.dumps({"users": len(users), "calls": peer.calls, "events": peer.events}), flush=True)
        time.sleep(options.pause)


if __name__ == "__main__":
    sys.exit(main())
