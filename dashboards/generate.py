#!/usr/bin/env python3
"""Writes the Grafana dashboards beside it: `generate.py` writes, `generate.py --check` says whether they are what it would write.

Two pages of panels, each a line or a few: where it stands, what it asks, what it says of itself. Needs Python and nothing else.
"""

import json
import pathlib
import sys
import urllib.parse

HERE = pathlib.Path(__file__).parent
PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}
LOKI = {"type": "loki", "uid": "${logs}"}
# The palette of Okabe and Ito, which those see apart who do not see red and green apart. Good is blue, bad is vermilion.
GOOD, GOOD_DARK, SOME, MANY, BAD = "#56B4E9", "#0072B2", "#F0E442", "#E69F00", "#D55E00"
GREY, PURPLE = "#8e8e8e", "#CC79A7"

# Words of labels, in colours that mean the same on every panel.
COLOURS = {
    "event_response": {"Pass": GOOD, "Fail": BAD, "InProgress": SOME, "none": GREY, "other": PURPLE},
    "feedback_value": {"Valid": GOOD, "Invalid": BAD},
    "event_type": {
        "SignIn": GOOD_DARK, "SignUp": GOOD, "ForgotPassword": MANY, "PasswordChange": PURPLE, "ResendCode": SOME, "other": GREY,
    },
    "result": {
        "new": GOOD, "revision": SOME, "known": GREY, "history": PURPLE, "unselected": MANY, "late": GOOD_DARK, "unreadable": BAD,
    },
    "state": {"ok": GOOD, "missing": GREY, "failing": BAD},
    "outcome": {
        "ok": GOOD, "throttled": MANY, "denied": BAD, "not_found": GREY, "timeout": PURPLE, "error": BAD,
        "retry": MANY, "refused": BAD, "accepted": GOOD, "rejected": MANY, "quarantined": BAD,
        "unauthorized": BAD, "invalid": MANY, "busy": PURPLE,
    },
}  # fmt: skip

# "All" is ".*" for each of these, which a series without the label matches, too.
JOB = 'cluster=~"$cluster", namespace=~"$namespace", job=~"$job"'
POOL = f'{JOB}, user_pool_id=~"$pool"'
INSTANCE = "cluster, namespace, job, pod, instance"
# The mixin's alerts. Some are about no job, such as that of a volume.
ALERTS = 'alertname=~"Cognito.+", cluster=~"$cluster", namespace=~"$namespace", job=~"$job|", user_pool_id=~"$pool|"'
# A record as Loki keeps what OTLP brings: the service's name a label, attributes structured metadata, dots underscores.
# A repeat has the same uid; a revision would count an event twice, so tables count first sights, of what is not history.
# The service's name is what OTEL_SERVICE_NAME says, so it is a variable.
RECORDS = '{service_name=~"$service_name"} | aws_cognito_user_pool_id=~"$pool"'
FIRST_SIGHTS = f'{RECORDS} | aws_cognito_event_revision="0" | aws_cognito_event_history="false"'


def total(metric, *matchers):
    """What a counter went up by in the range shown, over all series that match."""
    return f"sum(increase({selector(metric, *matchers)}[$__range]))"


def per_minute(by, metric, *matchers):
    """Of what there was any in the range shown: every word exists at 0, and most never occur."""
    return f"60 * sum by ({by}) (rate({selector(metric, *matchers)}[$__rate_interval])){that_occurred(by, metric, *matchers)}"


def that_occurred(by, metric, *matchers):
    """Leaves out what never occurred in the range shown. `@ end()` asks that once, and not again at each step."""
    return f" and sum by ({by}) (increase({selector(metric, *matchers)}[$__range] @ end())) > 0"


def named(expr):
    """Series of pools, with the pools' names."""
    names = f"max by (user_pool_id, user_pool_name) (cognito_exporter_pool_info{{{POOL}}})"
    return f"({expr}) * on (user_pool_id) group_left (user_pool_name) topk by (user_pool_id) (1, {names})"


def of_exporter(expr):
    """Of metrics that other programs have, too."""
    return f"{expr} and on ({INSTANCE}) cognito_exporter_build_info"


def selector(metric, *matchers):
    return f"{metric}{{{', '.join(matchers)}}}" if matchers else metric


def target(expr, legend="", *, datasource=PROMETHEUS, instant=False, form=None):
    query = {"datasource": datasource, "expr": expr, "legendFormat": legend}
    if datasource is LOKI:
        query["queryType"] = "instant" if instant else "range"
    else:
        query |= {"editorMode": "code", "instant": instant, "range": not instant}
        query |= {"format": form} if form else {}
    return query


def explore(filter_=""):
    """A link into the logs, at the time and for the pools that are shown."""
    records = RECORDS.replace("$pool", "${pool:regex}").replace("$service_name", "${service_name:raw}") + filter_
    pane = {
        "datasource": "${logs}",
        "queries": [{"refId": "A", "datasource": {"type": "loki", "uid": "${logs}"}, "expr": records}],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
    panes = urllib.parse.quote(json.dumps({"logs": pane}, separators=(",", ":")), safe="${}:")
    return {"title": "The records", "url": f"/explore?schemaVersion=1&orgId=1&panes={panes}", "targetBlank": True}


def steps(*pairs):
    return {"mode": "absolute", "steps": [{"color": colour, "value": value} for value, colour in pairs]}


def panel(kind, title, description, targets, *, w, h, unit="short", thresholds=None, options, custom=None, link=None, **more):
    """`more`: overrides, transformations, min, max, decimals, no_value, mappings."""
    defaults = {"unit": unit, "thresholds": thresholds or steps((None, GOOD)), "color": {"mode": "palette-classic"}}
    defaults |= {"custom": custom} if custom is not None else {}
    names = {"minimum": "min", "maximum": "max", "decimals": "decimals", "no_value": "noValue", "mappings": "mappings"}
    defaults |= {json_name: more[name] for name, json_name in names.items() if name in more}
    if kind in ("stat", "gauge"):
        defaults["color"] = {"mode": "thresholds"}
    legends = "".join(one["legendFormat"] for one in targets)
    words = [words for label, words in COLOURS.items() if kind == "timeseries" and f"{{{{{label}}}}}" in legends]
    colours = [coloured(f"/(^|, ){word}$/", colour, by="byRegexp") for one in words for word, colour in one.items()]
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": targets[0]["datasource"],
        "targets": [{"refId": chr(ord("A") + index)} | one for index, one in enumerate(targets)],
        "gridPos": {"w": w, "h": h},
        "fieldConfig": {"defaults": defaults, "overrides": colours + more.get("overrides", [])},
        "options": options,
        "transformations": more.get("transformations", []),
        "links": [link] if link else [],
    }


def dashed(name):
    """A limit or an objective: grey, dashed, with nothing below it."""
    style = {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 8]}}
    made = coloured(name, GREY)
    made["properties"] += [style, {"id": "custom.fillOpacity", "value": 0}]
    return made


def coloured(name, colour, by="byName"):
    fixed = {"mode": "fixed", "fixedColor": colour}
    return {"matcher": {"id": by, "options": name}, "properties": [{"id": "color", "value": fixed}]}


def stat(title, description, expr, *, w=4, unit="locale", thresholds=None, **more):
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value", "graphMode": "none", "justifyMode": "auto", "orientation": "auto", "textMode": "value",
    }  # fmt: skip
    targets = [target(expr, instant=True)]
    return panel("stat", title, description, targets, w=w, h=4, unit=unit, thresholds=thresholds, options=options, **more)


def series(title, description, *targets, w=12, h=8, unit="short", stacked=False, bars=False, **more):
    custom = {
        "drawStyle": "bars" if bars else "line", "lineWidth": 1, "fillOpacity": 60 if bars else 20 if stacked else 8,
        "showPoints": "never", "spanNulls": False, "axisSoftMin": 0,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }  # fmt: skip
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    more.setdefault("no_value", "none")
    # A line with a fixed name takes its place in the palette, unless it has a colour of its own.
    fixed = (one["legendFormat"] for one in targets if "{{" not in one["legendFormat"])
    more["overrides"] = [coloured(*pair) for pair in zip(fixed, (GOOD, MANY, PURPLE, SOME))] + more.get("overrides", [])
    return panel("timeseries", title, description, list(targets), w=w, h=h, unit=unit, options=options, custom=custom, **more)


def table(title, description, target_, *, renames, w=6, h=8, **more):
    """A table of an instant query: `renames` are its columns in their order, and what they are called."""
    order = {name: index for index, name in enumerate(renames)}
    organize = {
        "id": "organize",
        "options": {"excludeByName": {name: True for name in ("Time", "Value") if name not in renames}, "includeByName": {}, "indexByName": order, "renameByName": renames},
    }
    options = {"showHeader": True, "cellHeight": "sm", "sortBy": [{"displayName": renames.get("Value", "Events"), "desc": True}]}
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}
    return panel(
        "table", title, description, [target_], w=w, h=h, options=options, custom=custom, transformations=[organize], **more
    )  # fmt: skip


def logs(title, description, expr, *, w=24, h=10):
    options = {
        "showTime": True, "wrapLogMessage": True, "enableLogDetails": True, "sortOrder": "Descending",
        "dedupStrategy": "none", "showLabels": False, "showCommonLabels": False, "prettifyLogMessage": False,
    }  # fmt: skip
    made = panel("logs", title, description, [target(expr, datasource=LOKI)], w=w, h=h, options=options)
    made["fieldConfig"] = {"defaults": {}, "overrides": []}
    return made


def top(title, description, label, name, filter_, **more):
    """Who or what is in most events, out of the logs."""
    expr = f"topk(10, sum by ({label}) (count_over_time({FIRST_SIGHTS}{filter_} [$__range])))"
    renames = {part: name if index == 0 else f"{name} (hashed)" for index, part in enumerate(label.split(", "))}
    asked = target(expr, datasource=LOKI, instant=True)
    return table(title, description, asked, renames=renames | {"Value #A": "Events"}, h=10, link=explore(filter_), **more)


def timeline(title, description, target_, *, mappings, w=12, h=8):
    options = {
        "mergeValues": True, "showValue": "never", "alignValue": "left", "rowHeight": 0.9,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "single", "sort": "none"},
    }  # fmt: skip
    custom = {"lineWidth": 0, "fillOpacity": 80}
    return panel("state-timeline", title, description, [target_], w=w, h=h, options=options, custom=custom, mappings=mappings,
                 no_value="none")  # fmt: skip


def alerts():
    """The row of the alerts."""
    firing = 'alertstate="firing"'
    by = "alertname, user_pool_id"
    severities = (
        f'2 * max by ({by}) (ALERTS{{{ALERTS}, {firing}, severity="critical"}})'
        f' or max by ({by}) (ALERTS{{{ALERTS}, {firing}, severity!="critical"}})'
    )
    words = by_value(_1={"text": "warning", "color": MANY, "index": 0}, _2={"text": "critical", "color": BAD, "index": 1})
    columns = {"alertname": "Alert", "severity": "Severity", "alertstate": "State", "user_pool_id": "Pool", "cluster": "Cluster",
               "namespace": "Namespace", "job": "Job"}  # fmt: skip
    return [
        row("Alerts"),
        timeline("Alerts that fired", "Each alert of this project, by pool where it is about one. docs/runbooks.md has what to do.",
                 target(severities, "{{alertname}} {{user_pool_id}}"), mappings=words),
        table("Alerts at present", "Pending ones have begun, and do not fire yet.",
              target(f"max by ({', '.join(columns)}) (ALERTS{{{ALERTS}}})", instant=True, form="table"), renames=columns, w=12),
    ]  # fmt: skip


def alert_count(w):
    return stat("Alerts", "How many alerts of this project fire at present. The row of alerts has them.",
                f'count(ALERTS{{{ALERTS}, alertstate="firing"}}) or vector(0)', w=w, decimals=0, thresholds=ZERO_IS_GOOD)  # fmt: skip


def annotation(name, colour, expr, keys, *, at_value=False):
    """Marks in all panels: while the expression is 1, or at the time that is its value."""
    return {
        "name": name, "datasource": PROMETHEUS, "enable": True, "hide": False, "iconColor": colour, "expr": expr, "step": "60s",
        "titleFormat": name, "textFormat": " ".join(f"{{{{{key}}}}}" for key in keys), "tagKeys": ",".join(keys),
        "useValueForTime": at_value,
    }  # fmt: skip


def annotations():
    started = of_exporter(f"process_start_time_seconds{{{JOB}}}")
    rebuilt = f"process_start_time_seconds{{{JOB}}} and on ({INSTANCE}) cognito_exporter_state_rebuilds_total > 0"
    return [
        annotation("Restart", GREY, f"1000 * ({started})", ["job", "pod", "instance"], at_value=True),
        annotation("Ledger rebuilt", BAD, f"1000 * ({rebuilt})", ["job", "pod", "instance"], at_value=True),
        annotation("Paused", MANY, f"max by (job, pod, instance, reason) (cognito_exporter_paused{{{JOB}}}) == 1",
                   ["reason", "job", "pod", "instance"]),
    ]  # fmt: skip


def row(title):
    return {"type": "row", "title": title, "collapsed": True, "panels": [], "gridPos": {"w": 24, "h": 1}}


def query_variable(name, label, query, regex=""):
    return {
        "type": "query", "name": name, "label": label, "datasource": PROMETHEUS,
        "query": {"query": query, "refId": "variable"}, "refresh": 2, "sort": 1, "multi": True, "includeAll": True,
        "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}, "options": [], "regex": regex, "hide": 0,
        "skipUrlSync": False,
    }  # fmt: skip


def source_variable(name, label, kind):
    return {
        "type": "datasource", "name": name, "label": label, "query": kind, "current": {}, "options": [], "hide": 0,
        "includeAll": False, "multi": False, "refresh": 1, "regex": "", "skipUrlSync": False,
    }  # fmt: skip


def text_variable(name, label, default):
    value = {"text": default, "value": default}
    return {
        "type": "textbox", "name": name, "label": label, "query": default, "current": value,
        "options": [value | {"selected": True}], "hide": 0, "skipUrlSync": False,
    }  # fmt: skip


def arranged(panels):
    """Panels flow from left to right and down, a new line where they do not fit. All rows but the first are closed."""
    top, rows, x, y, height = [], 0, 0, 0, 0
    inside = top
    for number, one in enumerate(panels, 1):
        place = one["gridPos"]
        if one["type"] == "row":
            rows += 1
            x, y, height = 0, y + height, 0
            if inside is not top:
                y = top[-1]["gridPos"]["y"] + 1
            one["collapsed"] = rows > 1
            inside = one["panels"] if one["collapsed"] else top
            top.append(one)
        else:
            inside.append(one)
        if x + place["w"] > 24:
            x, y, height = 0, y + height, 0
        one["id"], place["x"], place["y"] = number, x, y
        x, height = x + place["w"], max(height, place["h"])
    return top


def dashboard(uid, title, description, panels, variables, other):
    to_other = {
        "title": other[1], "type": "link", "url": f"/d/{other[0]}", "keepTime": True, "includeVars": True, "icon": "dashboard",
        "tooltip": "", "targetBlank": False, "asDropdown": False, "tags": [],
    }  # fmt: skip
    return {
        "uid": uid, "title": title, "description": description, "tags": ["cognito", "cognito-auth-exporter"],
        "schemaVersion": 39, "version": 1, "editable": True, "graphTooltip": 1, "timezone": "browser", "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"}, "links": [to_other], "annotations": {"list": annotations()},
        "templating": {"list": variables}, "panels": arranged(panels),
    }  # fmt: skip


EVENTS, LEFT = "cognito_auth_events_total", "cognito_auth_superseded_outcomes_total"
RISK, COMPROMISED = "cognito_auth_risk_events_total", "cognito_auth_compromised_credentials_events_total"
SIGN_IN, TAKEOVER = 'event_type="SignIn"', 'risk_decision="AccountTakeover"'
FAILED, NOT_FAILED = 'event_response="Fail"', 'event_response!="Fail"'
ZERO_IS_GOOD = steps((None, GOOD), (0.5, BAD))


def final(*matchers):
    return f"({total(EVENTS, POOL, *matchers)} - {total(LEFT, POOL, *matchers)})"


def ended(by, *matchers):
    """Outcomes per minute that were not left again."""
    rates = (f"sum by ({by}) (rate({selector(metric, *matchers)}[$__rate_interval]))" for metric in (EVENTS, LEFT))
    return f"60 * clamp_min({' - '.join(rates)}, 0){that_occurred(by, EVENTS, *matchers)}"


def sign_in_security():
    risky = ' | aws_cognito_risk_decision=~"AccountTakeover|Block"'
    failed = ' | aws_cognito_event_type="SignIn" | aws_cognito_event_response="Fail"'
    return [
        stat("Sign-ins", "Sign-ins that began in the time shown: outcomes, less those that were left for another.",
             final(SIGN_IN), w=3, decimals=0, thresholds=steps((None, "text"))),
        stat("Failed", "Share of the sign-ins that ended with Fail. Everyday life has some; look at what is usual for the pool.",
             f'{final(SIGN_IN, FAILED)} / {final(SIGN_IN)}', w=3, unit="percentunit", decimals=1,
             thresholds=steps((None, GOOD), (0.3, MANY), (0.6, BAD)), link=explore(failed)),
        stat("Takeovers", "Events at high risk of account takeover that did not fail: somebody may be inside. "
             "One that went from InProgress to Pass counts under both.",
             total(RISK, POOL, TAKEOVER, 'risk_level="High"', NOT_FAILED), decimals=0, thresholds=ZERO_IS_GOOD,
             link=explore(' | aws_cognito_risk_decision="AccountTakeover" | aws_cognito_risk_level="High"')),
        stat("Blocked", "Events that threat protection decided to block.", total(RISK, POOL, 'risk_decision="Block"'), w=3, decimals=0,
             thresholds=steps((None, GOOD), (0.5, MANY)), link=explore(' | aws_cognito_risk_decision="Block"')),
        stat("Leaked passwords", "Events with a password that is known from leaks.", total(COMPROMISED, POOL), decimals=0,
             thresholds=steps((None, GOOD), (0.5, MANY)), link=explore(' | aws_cognito_risk_compromised_credentials="true"')),
        stat("No second factor", "Sign-ins whose password was right and whose second factor never came, half an hour after.",
             total("cognito_auth_unfinished_events_total", POOL, SIGN_IN), decimals=0,
             thresholds=steps((None, GOOD), (0.5, MANY)), link=explore(' | aws_cognito_event_response="InProgress"')),
        alert_count(3),

        row("What happens"),
        series("Sign-ins by outcome, per minute", "How sign-ins ended, each counted once: outcomes, less those that were left for another. "
               "Unfinished ones are known half an hour later.",
               target(ended("event_response", POOL, SIGN_IN, 'event_response!="InProgress"'), "{{event_response}}"),
               target("60 * sum(rate(" + selector("cognito_auth_unfinished_events_total", POOL, SIGN_IN) + "[$__rate_interval])) > 0",
                      "unfinished"), stacked=True, link=explore(), overrides=[coloured("unfinished", SOME)]),
        series("Everything else by type, per minute", "Sign-ups, forgotten and changed passwords, and codes sent again; of those in progress, the beginning.",
               target(per_minute("event_type", EVENTS, POOL, 'event_type!="SignIn"'), "{{event_type}}"), stacked=True,
               link=explore(' | aws_cognito_event_type!="SignIn"')),
        series("Failed sign-ins in ten minutes, and what is usual", "The burst alert asks for more than three times the mean of the last day, and twice its share. "
               "From the recording rules.",
               target(f"sum(pool:cognito_failed_sign_ins:increase10m{{{POOL}}})", "failed"),
               target(f"sum(3 * pool:cognito_failed_sign_ins:increase10m_avg1d{{{POOL}}})", "three times the mean"),
               link=explore(failed), overrides=[dashed("three times the mean")]),
        series("What fails, per minute", "The shape of an attack: wrong passwords are guessing, wrong second factors after right passwords are worse.",
               target(per_minute("challenge_name, challenge_response", "cognito_auth_challenges_total", POOL),
                      "{{challenge_name}}, {{challenge_response}}"), link=explore(failed), overrides=[
                          coloured("Password, Success", GOOD), coloured("Password, Failure", MANY),
                          coloured("Mfa, Success", GOOD_DARK), coloured("Mfa, Failure", BAD)]),

        *alerts(),

        row("Threat protection"),
        series("Takeover and Block by level, per minute", "Decisions that are not NoRisk, by level; a decision or level that this build does not know is `other`.",
               target(per_minute("risk_decision, risk_level", RISK, POOL), "{{risk_decision}}, {{risk_level}}"),
               bars=True, stacked=True, link=explore(risky), overrides=[
                   coloured("AccountTakeover, Low", SOME), coloured("AccountTakeover, Medium", MANY),
                   coloured("AccountTakeover, High", BAD), coloured("Block, Low", GREY),
                   coloured("Block, Medium", GOOD), coloured("Block, High", GOOD_DARK)]),
        series("Risky events by outcome, per minute", "Whether those whom threat protection suspects come in all the same.",
               target(per_minute("event_response", RISK, POOL), "{{event_response}}"), bars=True, stacked=True, link=explore(risky)),
        series("Leaked passwords by outcome, per minute", "Passwords from leaks, in sign-ins and wherever else one is set.",
               target(per_minute("event_type, event_response", COMPROMISED, POOL), "{{event_type}}, {{event_response}}"),
               w=8, bars=True, stacked=True, link=explore(' | aws_cognito_risk_compromised_credentials="true"')),
        series("Unfinished by type, per hour", "Still in progress when their watch ended: 30 minutes after a sign-in, 25 hours after a sign-up.",
               target(f"sum by (event_type) (increase(cognito_auth_unfinished_events_total{{{POOL}}}[1h])) > 0", "{{event_type}}"),
               w=8, link=explore(' | aws_cognito_event_response="InProgress"')),
        series("Feedback, per minute", "What users and administrators said of events: Valid, it was them; Invalid, it was not.",
               target(per_minute("feedback_value", "cognito_auth_feedback_total", POOL), "{{feedback_value}}"), w=8, bars=True,
               stacked=True, link=explore(' | aws_cognito_feedback_value=~".+"')),

        row("Who and where (from the logs)"),
        top("Countries", "Where sign-ins come from, by the country that Cognito found for the address.", "aws_cognito_country",
            "Country", ' | aws_cognito_event_type="SignIn"'),
        top("Countries of risky events", "Where those came from whom threat protection suspected or blocked.", "aws_cognito_country",
            "Country", risky),
        top("Users with most failures", "Whose sign-ins failed most; hashed where privacy.username says so.", "user_name, user_hash",
            "User", failed),
        top("Addresses with most failures", "Few addresses and many users is stuffing; many addresses and one user is a siege.",
            "client_address, aws_cognito_client_address_hash", "Address", failed),
        top("Users at risk", "Whom threat protection suspects to be somebody else.", "user_name, user_hash", "User", risky),
        table("Outcomes in the time shown", "Every combination that occurred, as often as it was reached.",
              target(f"sum by (event_type, event_response, risk_decision) (increase(cognito_auth_events_total{{{POOL}}}[$__range])) > 0.5",
                     instant=True, form="table"), w=18, h=10, decimals=0,
              renames={"event_type": "Type", "event_response": "Response", "risk_decision": "Decision", "Value": "Events"}),
        logs("What threat protection found", "Records of severity WARN and ERROR, newest first, each a sentence; open one for all its attributes.",
             RECORDS + ' | severity_text=~"WARN|ERROR"'),
    ]  # fmt: skip


def by_value(**texts):
    """0 and 1 as words, the bad one red."""
    return [{"type": "value", "options": {value.strip("_"): text for value, text in texts.items()}}]


def wilson(sign, missed, audited):
    """An end of the 95 % interval of missed of audited (Wilson): z = 1.96, z²/2 = 1.92, z²/4 = 0.96."""
    spread = f"1.96 * sqrt({missed} * ({audited} - {missed}) / {audited} + 0.96)"
    return f"({missed} + 1.92 {sign} {spread}) / ({audited} + 3.84)"


def exporter_health():
    missed, audited = (f"sum(increase(cognito_exporter_export_{what}_events_total{{{POOL}}}[1d]))" for what in ("missed", "audited"))
    requests = "cognito_exporter_api_requests_total"
    up = by_value(_0={"text": "down", "color": BAD, "index": 0}, _1={"text": "up", "color": GOOD, "index": 1})
    paused = by_value(_0={"text": "no", "color": GOOD, "index": 0}, _1={"text": "paused", "color": BAD, "index": 1})
    quantile = "histogram_quantile({}, sum by (le{}) (rate({}[$__rate_interval])))".format
    return [
        stat("Pools", "Whether every pool answers: down if one of them does not.", f"min(cognito_exporter_pool_up{{{POOL}}})", w=3,
             thresholds=steps((None, BAD), (1, GOOD)), mappings=up, no_value="not yet"),
        stat("Oldest look", "How long ago the least recently polled user was polled. What happened to them since is not known yet.",
             f"max(time() - cognito_exporter_oldest_poll_timestamp_seconds{{{POOL}}})", w=3, unit="s", decimals=0,
             thresholds=steps((None, GOOD), (7200, MANY), (14400, BAD)), no_value="no user"),
        stat("Seen after", "Half of the live events of the time shown were seen sooner than this after they happened.",
             f"histogram_quantile(0.5, sum by (le) (increase(cognito_auth_event_delay_seconds_bucket{{{POOL}}}[$__range])))", w=3,
             unit="s", decimals=0, thresholds=steps((None, GOOD), (1800, MANY)), no_value="no event"),
        stat("Users", "Users of all states.", f"sum(cognito_exporter_users{{{POOL}}})", w=3, decimals=0,
             thresholds=steps((None, "text"))),
        stat("Outbox", "How much of state.outbox_limit waits for the receiver; at all of it polling pauses.",
             f"max(cognito_exporter_outbox_bytes{{{JOB}}} / cognito_exporter_outbox_limit_bytes{{{JOB}}})", w=3, unit="percentunit",
             decimals=1, thresholds=steps((None, GOOD), (0.5, MANY), (0.9, BAD))),
        stat("Quarantine", "Records that the receiver refused as invalid, waiting for somebody to decide.",
             f"sum(cognito_exporter_quarantined_records{{{JOB}}})", w=3, decimals=0, thresholds=ZERO_IS_GOOD),
        stat("Paused", "Whether work pauses for any reason: outbox or quarantine full, or a state that cannot be written.",
             f"max(cognito_exporter_paused{{{JOB}}})", w=3, thresholds=steps((None, GOOD), (1, BAD)), mappings=paused),
        alert_count(3),

        row("How old is what we know"),
        series("Oldest look, and the objective", "The least recently polled user of each pool, and poll.max_interval. Above it for long: the budget does not suffice.",
               target(named(f"max by (user_pool_id) (time() - cognito_exporter_oldest_poll_timestamp_seconds{{{POOL}}})"), "{{user_pool_name}}"),
               target(f"max(cognito_exporter_poll_objective_seconds{{{POOL}}})", "objective"), w=8, unit="s", overrides=[dashed("objective")]),
        series("From event to first sight", "Delay of live events: half of them, and all but a twentieth, are quicker than this. After an outage it is long for a while.",
               target(quantile(0.5, "", f"cognito_auth_event_delay_seconds_bucket{{{POOL}}}"), "half"),
               target(quantile(0.95, "", f"cognito_auth_event_delay_seconds_bucket{{{POOL}}}"), "95 %"),
               target(f"max(cognito_exporter_event_delay_seconds_estimate{{{POOL}}})", "mean to expect at this budget"), w=8, unit="s",
               overrides=[dashed("mean to expect at this budget")]),
        series("A round would take", "Time for everybody once at the present budget. Longer than the objective: raise the budget, follow fewer, or want less.",
               target(named(f"max by (user_pool_id) (cognito_exporter_round_seconds_estimate{{{POOL}}})"), "{{user_pool_name}}"), w=8, unit="s"),
        series("Users by state", "missing: Cognito does not know them (any more). failing: their latest answers were errors of their own.",
               target(f"sum by (state) (cognito_exporter_users{{{POOL}}})", "{{state}}"), w=8, stacked=True),
        series("Events read, per minute", "What pages held. Known ones are the price of reading from the top; history is from before its user was followed.",
               target(per_minute("result", "cognito_exporter_fetched_events_total", POOL), "{{result}}"), w=8, stacked=True),
        series("Late and out of order, per minute", "Events taken behind the newest known, and pages that were not newest first: handled, and worth knowing.",
               target(named(per_minute("user_pool_id", "cognito_exporter_late_events_total", POOL)), "late, {{user_pool_name}}"),
               target(named(per_minute("user_pool_id", "cognito_exporter_order_violations_total", POOL)), "out of order, {{user_pool_name}}"), w=8),
        series("Catching up", "1 while backlog or history is worked off, in a lane of its own.",
               target(named(f"max by (user_pool_id) (cognito_exporter_catching_up{{{POOL}}})"), "{{user_pool_name}}"), w=8, maximum=1),
        series("Discovery", "How long ago the users were last listed to the end, and how long newcomers took to be followed.",
               target(named(f"max by (user_pool_id) (time() - cognito_exporter_discovery_last_success_timestamp_seconds{{{POOL}}})"), "since the last listing, {{user_pool_name}}"),
               target(quantile(0.95, "", f"cognito_exporter_discovery_delay_seconds_bucket{{{POOL}}}"), "newcomers join, 95 %"), w=8, unit="s"),
        series("Users met, and history read", "Users met in the present round of listings; events of history so far.",
               target(f"sum(cognito_exporter_discovery_listed_users{{{POOL}}})", "users met"),
               target(f"sum(cognito_auth_history_events_total{{{POOL}}})", "events of history"), w=8),

        *alerts(),

        row("Calls to Cognito"),
        series("Calls by outcome, per second", "The account's quota is shared with calls that end users wait for.",
               target(f"sum by (outcome) (rate({requests}{{{JOB}}}[$__rate_interval])) > 0", "{{outcome}}"), w=8, unit="reqps", stacked=True),
        series("Budget, and what is used of it", "Reads of histories against poll.requests_per_second as it is at present, after back-off; and what it would take to keep the objective.",
               target(f'sum(rate({requests}{{{JOB}, operation="AdminListUserAuthEvents"}}[$__rate_interval]))', "used"),
               target(f"sum(cognito_exporter_api_budget_requests_per_second{{{JOB}}})", "budget"),
               target(f"sum(cognito_exporter_required_requests_per_second{{{POOL}}})", "it would take"), w=8,
               unit="reqps", overrides=[dashed("budget")]),
        series("Calls take (95 %)", "By operation; the upper end is poll.timeout.",
               target(quantile(0.95, ", operation", f"cognito_exporter_api_request_duration_seconds_bucket{{{JOB}}}"), "{{operation}}"), w=8, unit="s"),
        series("Throttled, per minute", "Each makes the exporter back off. Some that keep coming: the quota is used up, by whomever.",
               target(per_minute("account_id, region", requests, JOB, 'outcome="throttled"'), "{{account_id}} {{region}}"), w=8),
        series("Denied, timed out, failed, per minute", "By operation and outcome; /status and the log have the error itself.",
               target(per_minute("operation, outcome", requests, JOB, 'outcome=~"denied|timeout|error"'), "{{operation}}, {{outcome}}"), w=8),
        table("Pools", "What each pool is called, and where it is.",
              target(f"max by (user_pool_id, user_pool_name, region) (cognito_exporter_pool_info{{{POOL}}})", instant=True, form="table"),
              renames={"user_pool_name": "Name", "user_pool_id": "Pool", "region": "Region"}, w=8),

        row("Cognito's export"),
        series("Export", "1 while it is up: it can be read, and what polls find has arrived. While it is down, polling runs in full.",
               target(named(f"min by (user_pool_id) (cognito_exporter_export_up{{{POOL}}})"), "{{user_pool_name}}"), w=8, maximum=1),
        series("Exported records by result, per minute", "known: seen before. unselected: of a user who is not followed. late: older than export.replay. unreadable: in quarantine.",
               target(per_minute("result", "cognito_exporter_export_records_total", POOL), "{{result}}"), w=8, stacked=True),
        series("From event to arrival", "Delay of exported events: half of them, and all but a twentieth, are quicker than this.",
               target(quantile(0.5, "", f"cognito_exporter_export_delay_seconds_bucket{{{POOL}}}"), "half"),
               target(quantile(0.95, "", f"cognito_exporter_export_delay_seconds_bucket{{{POOL}}}"), "95 %"), w=8, unit="s"),
        series("Audited and missed, per hour", "Events that polls found and looked up in the export, and those that had not arrived within export.grace.",
               target(f"sum(increase(cognito_exporter_export_audited_events_total{{{POOL}}}[1h]))", "audited"),
               target(f"sum(increase(cognito_exporter_export_missed_events_total{{{POOL}}}[1h]))", "missed"), w=8,
               overrides=[coloured("audited", GOOD), coloured("missed", BAD)]),
        series("Loss, and its 95 % interval", "Share of the events audited in a day that the export missed. The wider the interval, the fewer events were audited.",
               target(f"{missed} / {audited}", "loss"), target(wilson("-", missed, audited), "at least"),
               target(wilson("+", missed, audited), "at most"), w=8, unit="percentunit", decimals=2,
               overrides=[dashed("at least"), dashed("at most")]),
        series("Log group read until", "How long ago that was. Nothing for a pool whose export arrives through Firehose.",
               target(named(f"max by (user_pool_id) (time() - cognito_exporter_export_read_until_timestamp_seconds{{{POOL}}})"), "{{user_pool_name}}"), w=8, unit="s"),
        series("Firehose's requests by answer, per minute", "unauthorized: no key or a wrong one. busy: the endpoint stops, or the outbox is full, or the ledger fails; Firehose tries again.",
               target(per_minute("outcome", "cognito_exporter_firehose_requests_total", JOB), "{{outcome}}"), w=24),

        row("Delivery"),
        series("Records waiting", "The outbox: what is counted and not yet acknowledged by the receiver.",
               target(f"sum(cognito_exporter_outbox_records{{{JOB}}})", "records"), w=8),
        series("Bytes waiting, and the limit", "At the limit polling pauses until the receiver takes some; history stops at half of it.",
               target(f"max(cognito_exporter_outbox_bytes{{{JOB}}})", "waiting"),
               target(f"max(cognito_exporter_outbox_limit_bytes{{{JOB}}})", "limit"), w=8, unit="bytes", overrides=[dashed("limit")]),
        series("The oldest record waits for", "Nothing while none waits.",
               target(f"max(time() - cognito_exporter_outbox_oldest_timestamp_seconds{{{JOB}}})", "oldest"), w=8, unit="s"),
        series("Batches by answer, per minute", "retry: no answer, or one that asks for patience. refused: an answer that a person has to look at.",
               target(per_minute("outcome", "cognito_exporter_otlp_requests_total", JOB), "{{outcome}}"), w=8),
        series("Records by what became of them, per minute", "rejected: the receiver said so of some in a batch that it took. quarantined: refused as invalid, kept.",
               target(per_minute("outcome", "cognito_exporter_otlp_records_total", JOB), "{{outcome}}"), w=8, link=explore()),
        series("Quarantine", "Records kept aside, until `quarantine retry` or `quarantine drop`.",
               target(f"sum(cognito_exporter_quarantined_records{{{JOB}}})", "records"), w=8),

        row("The process and its state"),
        series("Since the last progress", "Of polling, writing and delivering: finished work, or found none to do.",
               target(f"max by (stage) (time() - cognito_exporter_last_progress_timestamp_seconds{{{JOB}}})", "{{stage}}"), w=8, unit="s"),
        series("Paused", "1 while work pauses, by reason.",
               target(f"max by (reason) (cognito_exporter_paused{{{JOB}}})", "{{reason}}"), w=8, maximum=1),
        series("Ledger", "Its size on disk. Times that a damaged one was begun anew are in the table.",
               target(f"max(cognito_exporter_state_size_bytes{{{JOB}}})", "size"), w=8, unit="bytes"),
        series("Memory", "Resident memory of each instance.",
               target(f"process_resident_memory_bytes{{{JOB}}} and on ({INSTANCE}) cognito_exporter_build_info", "{{pod}} {{instance}}"), w=8, unit="bytes"),
        series("Processor", "Seconds of processor time per second.",
               target(f"rate(process_cpu_seconds_total{{{JOB}}}[$__rate_interval]) and on ({INSTANCE}) cognito_exporter_build_info", "{{pod}} {{instance}}"), w=8, unit="percentunit"),
        series("Files open", "Of each instance, and how many it may have.",
               target(f"process_open_fds{{{JOB}}} and on ({INSTANCE}) cognito_exporter_build_info", "{{pod}} {{instance}}"),
               target(f"max(process_max_fds{{{JOB}}} and on ({INSTANCE}) cognito_exporter_build_info)", "limit"), w=8, overrides=[dashed("limit")]),
        table("Instances", "What runs, which share of the users it follows, and how often its ledger was begun anew.",
              target(f"(cognito_exporter_state_rebuilds_total{{{JOB}}} * on ({INSTANCE}) group_left (version, revision) cognito_exporter_build_info)"
                     f" * on ({INSTANCE}) group_left (index, count) cognito_exporter_shard_info", instant=True, form="table"),
              renames={"cluster": "Cluster", "namespace": "Namespace", "job": "Job", "pod": "Pod", "instance": "Instance", "version": "Version", "revision": "Revision", "index": "Shard",
                       "count": "of", "Value": "Ledgers begun anew"}, w=16),
        stat("Configuration", "Whether the latest attempt to load it succeeded, and since when the present one is in force.",
             f"min(cognito_exporter_config_last_reload_successful{{{JOB}}})", w=4, thresholds=steps((None, BAD), (1, GOOD)),
             mappings=by_value(_0={"text": "refused", "color": BAD, "index": 0}, _1={"text": "in force", "color": GOOD, "index": 1})),
        stat("In force for", "Since the configuration was last loaded.",
             f"max(time() - cognito_exporter_config_last_reload_success_timestamp_seconds{{{JOB}}})", w=4, unit="s", decimals=0,
             thresholds=steps((None, "text"))),
    ]  # fmt: skip


def both():
    of_cluster = 'cluster=~"$cluster"'
    of_namespace = f'{of_cluster}, namespace=~"$namespace"'
    info = "cognito_exporter_build_info"
    # The list shows the pools' names, and the queries get their ids.
    pools = f"query_result(max by (user_pool_id, user_pool_name) (cognito_exporter_pool_info{{{JOB}}}))"
    variables = [
        source_variable("datasource", "Metrics", "prometheus"),
        source_variable("logs", "Logs", "loki"),
        text_variable("service_name", "Service (of the logs)", "cognito-auth-exporter"),
        query_variable("cluster", "Cluster", f"label_values({info}, cluster)"),
        query_variable("namespace", "Namespace", f"label_values({info}{{{of_cluster}}}, namespace)"),
        query_variable("job", "Job", f"label_values({info}{{{of_namespace}}}, job)"),
        query_variable("pool", "User pool", pools, '/user_pool_name="(?<text>[^"]+)|user_pool_id="(?<value>[^"]+)/g'),
    ]
    security = ("cognito-sign-in-security", "Cognito: sign-in security")
    health = ("cognito-exporter-health", "Cognito: exporter health")
    yield "sign-in-security.json", dashboard(
        *security, "How people sign in, what threat protection thinks of it, and who it is about.", sign_in_security(),
        variables, health)  # fmt: skip
    yield "exporter-health.json", dashboard(
        *health, "Whether cognito-auth-exporter sees what happens in time, and whether its records arrive.", exporter_health(),
        variables, security)  # fmt: skip


def main():
    stale = []
    for name, content in both():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        path = HERE / name
        if sys.argv[1:] == ["--check"]:
            stale += [] if path.read_text() == text else [name]
        else:
            path.write_text(text)
    if stale:
        sys.exit(f"not what generate.py writes: {', '.join(stale)}")


if __name__ == "__main__":
    main()
