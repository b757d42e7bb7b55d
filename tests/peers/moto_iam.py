"""Makes stacks of IAM roles in moto's CloudFormation, for tests/iam.rs.

On stdin a JSON list of stacks, each with its template's text and its parameters. On stdout a JSON list of their roles as
IAM tells them, with the stack's outputs. A stack has one role, and an account of its own.
"""

import ast
import json
import sys
import warnings

import boto3
from moto import mock_aws

REGION = "eu-west-1"


def policy(document):
    # moto keeps the document of a template as the text of a Python value, and a statement of AWS::NoValue as None.
    # CloudFormation leaves such a statement out.
    document = ast.literal_eval(document)
    document["Statement"] = [statement for statement in document["Statement"] if statement is not None]
    return document


def role(template, parameters):
    formation = boto3.client("cloudformation", region_name=REGION)
    given = [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]
    formation.create_stack(
        StackName="stack", TemplateBody=template, Parameters=given, Capabilities=["CAPABILITY_NAMED_IAM"]
    )
    [stack] = formation.describe_stacks(StackName="stack")["Stacks"]
    iam = boto3.client("iam")
    [listed] = iam.list_roles()["Roles"]
    name = listed["RoleName"]
    made = iam.get_role(RoleName=name)["Role"]
    [inline] = iam.list_role_policies(RoleName=name)["PolicyNames"]
    assert not iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
    return {
        "arn": made["Arn"],
        "boundary": made.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn"),
        "trust": made["AssumeRolePolicyDocument"],
        "policy": policy(iam.get_role_policy(RoleName=name, PolicyName=inline)["PolicyDocument"]),
        "outputs": {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]},
    }


def main():
    # moto knows no AWS::EKS::PodIdentityAssociation, and says so.
    warnings.simplefilter("ignore")
    made = []
    for stack in json.load(sys.stdin):
        with mock_aws():
            made.append(role(stack["template"], stack["parameters"]))
    json.dump(made, sys.stdout)


main()
