"""Well-formed numbers and rules, instead of what the schemas allow. schemathesis loads this file in some rounds of `run`."""

import random

import schemathesis

NUMBERS = ["(202) 555-0123", "tel:+1-202-555-0147", "+44 20 7946 0123", *(f"+1202555{n:04}" for n in range(100, 200))]
RULES = ["anonymous", "ANONYMOUS", "+1900*", "+1*", "complaints:1", "complaints:1000000000", *NUMBERS]


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    for name in path_parameters or {}:
        path_parameters[name] = random.choice(RULES if name == "rule" else NUMBERS)
    return path_parameters


@schemathesis.hook
def map_query(context, query):
    if query and "after" in query:
        number = random.choice(["12025550123", "+12025550123"])
        workers = context.operation.path == "/v1/workers"
        query["after"] = f"{random.choice(['denylist', 'reputation'])}:{number}" if workers else number
    return query


@schemathesis.hook
def map_body(context, body):
    if isinstance(body, dict):
        if "rules" in body:
            body["rules"] = random.choices(RULES, k=random.randrange(8))
        if "to" in body:
            body["to"] = random.choice(NUMBERS)
        if body.get("from") is not None:
            body["from"] = random.choice([*NUMBERS, "anonymous"])
    return body
