"""Reads manifests like the programs that use them, for tests/deploy.rs.

documents   YAML on stdin, as a JSON list of its documents on stdout
rendered    a JSON object of YAML texts on stdin, as one of lists of documents on stdout
hcl         Terraform on stdin, as JSON on stdout: its blocks, with the text of each jsonencode as what it encodes
validate    the output of `rendered` on stdin, against the API's own schemas (strictly) and the Prometheus Operator's models
"""

import json
import sys

KUBERNETES = "1.31"


def documents(text):
    import yaml

    return [document for document in yaml.safe_load_all(text) if document is not None]


def unquoted(value):
    """The value of a constant HCL expression. A reference keeps its text."""
    if isinstance(value, dict):
        return {unquoted(key): unquoted(item) for key, item in value.items() if not key.startswith("__")}
    if isinstance(value, list):
        return [unquoted(item) for item in value]
    if isinstance(value, str) and value.startswith("${") and value.endswith("}"):
        return value[2:-1]
    return value.strip('"') if isinstance(value, str) else value


def hcl():
    import hcl2

    def decoded(value):
        if isinstance(value, dict):
            return {key: decoded(item) for key, item in value.items()}
        if isinstance(value, list):
            return [decoded(item) for item in value]
        if isinstance(value, str) and value.startswith("jsonencode(") and value.endswith(")"):
            encoded = value.removeprefix("jsonencode(").removesuffix(")")
            return unquoted(hcl2.loads(f"value = {encoded}\n"))["value"]
        return value

    return decoded(unquoted(hcl2.load(sys.stdin)))


def refusal(document):
    """The fault of a document; None if it is valid."""
    import kubernetes_validate

    if document["apiVersion"] == "monitoring.coreos.com/v1":
        # These models take seconds to import.
        from cloudcoil.models.prometheus_operator import v1

        try:
            getattr(v1, document["kind"]).model_validate(document, extra="forbid")
        except (AttributeError, ValueError) as error:
            return str(error)
        return None
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{list(error.path)}: {error.message}"
    return None


def validate():
    refused = False
    for what, found in json.load(sys.stdin).items():
        for document in found:
            if why := refusal(document):
                print(f"{what}: {document['kind']} {document['metadata']['name']}: {why}", file=sys.stderr)
                refused = True
    sys.exit(refused)


def main():
    command = sys.argv[1]
    if command == "documents":
        json.dump(documents(sys.stdin), sys.stdout)
    elif command == "rendered":
        json.dump({what: documents(text) for what, text in json.load(sys.stdin).items()}, sys.stdout)
    elif command == "hcl":
        json.dump(hcl(), sys.stdout)
    elif command == "validate":
        validate()
    else:
        sys.exit(__doc__)


main()
