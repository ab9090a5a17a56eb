"""The SAM template: it passes cfn-lint, fits its handlers, allows no more than they need, and they run on local services."""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

import tiered_cache
from tiered_cache.local import AthenaServer, _clients
from tiered_cache.local.athena import control
from tiered_cache.local.valkey import ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from tiered_cache import RedisTier
    from tiered_cache.local import AWSServer
    from tiered_cache.local.valkey import ValkeyServer

ROOT = Path(__file__).parents[2]
SAM = ROOT / "examples" / "sam"
TEMPLATE = SAM / "template.yaml"
APP = SAM / "src" / "app.py"
FUNCTIONS = ("Answer", "ObjectChanged", "ItemChanged")


@pytest.fixture(scope="module")
def template() -> Any:
    """The template as plain data, with `!Ref x` as {"Ref": x} and the like."""
    yaml = pytest.importorskip("cfnlint.decode.cfn_yaml", reason="cfn-lint, which reads templates, is not installed")
    return json.loads(json.dumps(yaml.load(str(TEMPLATE))))


def properties(template: Any, name: str) -> Any:
    return template["Resources"][name]["Properties"]


def statements(template: Any) -> list[Any]:
    """Of all policies of all roles."""
    found: list[Any] = []
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::IAM::Role":
            for policy in resource["Properties"]["Policies"]:
                found += policy["PolicyDocument"]["Statement"]
        if resource["Type"] == "AWS::IAM::RolePolicy":
            found += resource["Properties"]["PolicyDocument"]["Statement"]
    return found


def read_by_handlers() -> set[str]:
    """Names of the environment variables that the handlers' module reads."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(APP.read_text())):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            names.add(ast.literal_eval(node.slice))
        assert not (
            isinstance(node, ast.Attribute) and node.attr in ("getenv", "get") and "environ" in ast.unparse(node)
        )
    return names


def as_list(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


def test_the_template_passes_cfn_lint() -> None:
    """With the schema of SAM's resources, and without a single warning."""
    command = shutil.which("cfn-lint", path=str(Path(sys.executable).parent)) or shutil.which("cfn-lint")
    if command is None:
        pytest.skip("the command cfn-lint is not installed")
    done = subprocess.run([command, str(TEMPLATE)], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)


def test_the_environment_is_what_the_handlers_read(template: Any) -> None:
    """No variable is missing, and none is there for nothing."""
    assert set(template["Globals"]["Function"]["Environment"]["Variables"]) == read_by_handlers()
    for name in FUNCTIONS:
        assert "Environment" not in properties(template, name)


def test_each_handler_is_there(template: Any) -> None:
    """By the names that the functions have in the template, in the folder that it gives."""
    defined = {
        target.id if isinstance(target, ast.Name) else ""
        for node in ast.parse(APP.read_text()).body
        if isinstance(node, ast.Assign)
        for target in node.targets
    } | {node.name for node in ast.parse(APP.read_text()).body if isinstance(node, ast.FunctionDef)}
    for name in FUNCTIONS:
        module, _, function = properties(template, name)["Handler"].partition(".")
        assert (SAM / template["Globals"]["Function"]["CodeUri"] / f"{module}.py") == APP
        assert function in defined
    assert (APP.parent / "requirements.txt").read_text().split() == ["tiered-cache[redis]"]


def test_what_is_allowed_names_its_resources(template: Any) -> None:
    """`*` stands where AWS takes nothing else: for the attachment to the VPC, which the code itself is denied."""
    attach = {
        f"ec2:{name}"
        for name in (
            "AssignPrivateIpAddresses",
            "CreateNetworkInterface",
            "DeleteNetworkInterface",
            "DescribeNetworkInterfaces",
            "DescribeSubnets",
            "UnassignPrivateIpAddresses",
        )
    }
    denied = 0
    for statement in statements(template):
        if statement["Effect"] == "Deny":
            denied += 1
            assert statement["Condition"]["ArnEquals"]["lambda:SourceFunctionArn"]
            continue
        actions = set(as_list(statement["Action"]))
        assert not any("*" in action for action in actions)
        if "*" in as_list(statement["Resource"]):
            assert actions == attach
    assert denied == len(FUNCTIONS)
    assert len({properties(template, name)["Role"]["Fn::GetAtt"][0] for name in FUNCTIONS}) == len(FUNCTIONS)
    for name in FUNCTIONS:
        assert "Policies" not in properties(
            template, name
        )  # or SAM makes a role of its own, with AWS' managed policies
        assert properties(template, name)["Role"]["Fn::GetAtt"][1] == "Arn"


def test_what_fails_is_tried_again_and_then_kept(template: Any) -> None:
    """A report of failures is heard by both sources alone if they are told to; given up are none in less than an hour."""
    kept = {"Fn::GetAtt": ["GivenUp", "Arn"]}
    queue = properties(template, "ObjectChanges")
    mapping = properties(template, "ObjectChanged")["Events"]["Changed"]
    assert (mapping["Type"], mapping["Properties"]["Queue"]) == ("SQS", {"Fn::GetAtt": ["ObjectChanges", "Arn"]})
    assert mapping["Properties"]["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    timeout = template["Globals"]["Function"]["Timeout"]
    assert queue["VisibilityTimeout"] >= 6 * timeout
    assert queue["RedrivePolicy"]["deadLetterTargetArn"] == kept
    assert queue["RedrivePolicy"]["maxReceiveCount"] * queue["VisibilityTimeout"] < 345_600  # SQS forgets after 4 days
    stream = properties(template, "ItemChanged")["Events"]["Changed"]["Properties"]
    assert stream["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert stream["BisectBatchOnFunctionError"]
    assert stream["MaximumRecordAgeInSeconds"] >= 3600
    assert stream["DestinationConfig"]["OnFailure"] == {"Type": "SQS", "Destination": kept}


def test_the_endpoints_let_through_what_the_role_may_do(template: Any) -> None:
    """And nobody else: of one's own account neither."""
    for name, service in (("S3Endpoint", "s3"), ("DynamoDBEndpoint", "dynamodb"), ("AthenaEndpoint", "athena")):
        (only,) = properties(template, name)["PolicyDocument"]["Statement"]
        assert only["Condition"] == {"ArnEquals": {"aws:PrincipalArn": {"Fn::GetAtt": ["AnswerRole", "Arn"]}}}
        allowed = {action for statement in statements(template) for action in as_list(statement["Action"])}
        assert set(as_list(only["Action"])) <= allowed
        assert all(action.startswith(f"{service}:") for action in as_list(only["Action"]))


@pytest.mark.parametrize(
    ("service", "actions"),
    [
        ("elasticache", {"Connect"}),
        ("dynamodb", {"GetItem", "BatchGetItem", "Query"}),
        ("athena", {"StartQueryExecution", "GetQueryExecution", "GetQueryResults", "StopQueryExecution"}),
        ("glue", {"GetDatabase", "GetTable", "GetPartitions"}),
        ("s3", {"GetObject", "ListBucket", "PutObject", "GetBucketLocation"}),
    ],
)
def test_what_the_origins_need_is_allowed(template: Any, service: str, actions: set[str]) -> None:
    """The actions that docs/origins.md names for each adapter."""
    allowed = {action for statement in statements(template) for action in as_list(statement["Action"])}
    assert {f"{service}:{action}" for action in actions} <= allowed
    if service != "elasticache":
        pages = (ROOT / "docs" / "origins.md").read_text()
        assert all(f"{service}:{action}" in pages for action in actions)


def test_the_documented_commands_are_those_of_the_caches_user(template: Any) -> None:
    """The access string is that of docs/redis.md, with what a cluster needs too."""
    user = properties(template, "CacheUser")
    documented = re.search(
        r"^ACL SETUSER cache on >secret (.*)$", (ROOT / "docs" / "redis.md").read_text(), re.MULTILINE
    )
    assert documented is not None
    assert user["AccessString"].split() == ["on", *documented[1].split(), "+cluster|slots"]
    assert user["AuthenticationMode"] == {"Type": "iam"}
    assert user["UserId"] == user["UserName"]


# The handlers, on local services


class Context:
    """As much of Lambda's context object as the decorator uses."""

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


ITEM = {
    "eventSource": "aws:dynamodb",
    "eventSourceARN": "arn:aws:dynamodb:us-east-1:123456789012:table/sam-customers/stream/2026-05-01T00:00:00.000",
    "eventName": "MODIFY",
    "dynamodb": {"Keys": {"customer_id": {"S": "c1"}}, "SequenceNumber": "1"},
}


def object_created() -> Any:
    """What EventBridge says of a document."""
    event = json.loads((ROOT / "tests/fixtures/events/s3_by_eventbridge.json").read_text())
    event["detail"] |= {"bucket": {"name": "sam-documents"}, "object": {"key": "documents/rates.json"}}
    return event


def fill(aws: AWSServer, athena: AthenaServer) -> None:
    s3, dynamodb = aws.client("s3"), aws.client("dynamodb")
    for bucket in ("sam-documents", "sam-results"):
        s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket="sam-documents", Key="documents/rates.json", Body=b'{"USD": 1.09, "CHF": 0.94}')
    s3.put_object(Bucket="sam-documents", Key="customer_mapping/part.csv", Body=b"c1,a1\nc2,a2\nc3,a3\n")
    dynamodb.create_table(
        TableName="sam-customers",
        KeySchema=[{"AttributeName": "customer_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "customer_id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    dynamodb.put_item(TableName="sam-customers", Item={"customer_id": {"S": "c1"}, "city": {"S": "Bern"}})
    client = athena.client()
    started = client.start_query_execution(
        QueryString="CREATE EXTERNAL TABLE customer_mapping (customer_id string, account string) ROW FORMAT DELIMITED "
        "FIELDS TERMINATED BY ',' LOCATION 's3://sam-documents/customer_mapping/'",
        QueryExecutionContext={"Database": "sam"},
        WorkGroup="sam",
    )["QueryExecutionId"]
    states = {"QUEUED", "RUNNING"}
    while (
        state := client.get_query_execution(QueryExecutionId=started)["QueryExecution"]["Status"]["State"]
    ) in states:
        time.sleep(0.02)
    assert state == "SUCCEEDED"


def unhurried(tier: Callable[..., RedisTier], *given: Any, **options: Any) -> RedisTier:
    """The tier, with the time that it may take on a busy machine."""
    return tier(*given, **options | {"timeout": 20})


@pytest.fixture
def app(
    local_aws: AWSServer, valkey: ValkeyServer, template: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    """The handlers' module, whose user may do in the server what the template's may."""
    access = properties(template, "CacheUser")["AccessString"]
    assert ask(valkey.port, f"ACL SETUSER sam-function >secret {access}").startswith("+OK")
    with AthenaServer(local_aws.client("s3"), workgroups={"sam": "s3://sam-results/athena/"}) as athena:
        fill(local_aws, athena)
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
        variables = {
            "REDIS_URL": f"redis://sam-function:secret@127.0.0.1:{valkey.port}",
            "CACHE_NAME": "sam",
            "CACHE_USER": "sam-function",
            "BUCKET": "sam-documents",
            "TABLE": "sam-customers",
            "DATABASE": "sam",
            "WORKGROUP": "sam",
        }
        assert set(variables) == read_by_handlers()
        services = {
            "AWS_ENDPOINT_URL_S3": local_aws.url,
            "AWS_ENDPOINT_URL_DYNAMODB": local_aws.url,
            "AWS_ENDPOINT_URL_ATHENA": athena.url,
            "AWS_ACCESS_KEY_ID": _clients.ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": _clients.SECRET_KEY,
            "AWS_DEFAULT_REGION": _clients.REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        for name, value in (variables | services).items():
            monkeypatch.setenv(name, value)
        # Where L2 answers all the time, a busy machine may take longer than the template's functions should.
        monkeypatch.setattr(tiered_cache, "RedisTier", functools.partial(unhurried, tiered_cache.RedisTier))
        spec = importlib.util.spec_from_file_location("sam_app", APP)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
        module.cache.close()
    local_aws.client("dynamodb").delete_table(TableName="sam-customers")
    ask(valkey.port, "ACL DELUSER sam-function")


def test_the_handlers_run(app: ModuleType, local_aws: AWSServer, template: Any) -> None:
    """Each origin is read once, then comes from L1; what the events of a change name is read anew; no L2 call fails."""

    def tier(**event: Any) -> str:
        return app.answer(event, Context())["tier"]

    for event, items in (({"document": "rates.json"}, 2), ({"customer_id": "c1"}, 2), ({"mapping": True}, 3)):
        first = app.answer(event, Context())
        assert (first["tier"], first["items"]) == ("origin", items)
        assert tier(**event) == "l1"
    event = object_created()
    pattern = properties(template, "ObjectRule")["EventPattern"]
    assert event["source"] in pattern["source"]
    assert event["detail-type"] in pattern["detail-type"]
    assert event["detail"]["object"]["key"].startswith(pattern["detail"]["object"]["key"][0]["prefix"])
    message = {"messageId": "m1", "eventSource": "aws:sqs", "body": json.dumps(event)}
    assert app.object_changed({"Records": [message]}, Context()) == {"batchItemFailures": []}
    assert tier(document="rates.json") == "origin"
    assert app.item_changed({"Records": [ITEM]}, Context()) == {"batchItemFailures": []}
    assert tier(customer_id="c1") == "origin"
    assert tier(mapping=True) == "l1"
    with pytest.raises(ValueError, match="the event must have"):
        tier(other=1)
    l2 = app.cache.stats().l2
    assert (dict(l2.errors), l2.connects) == ({}, 1)


def test_a_query_that_takes_longer_than_the_function_may_loads(app: ModuleType) -> None:
    """It lasts until the first call has answered that it is pending: it is run once, and one of the next calls has its rows."""
    query = {"mapping": True}
    service = os.environ["AWS_ENDPOINT_URL_ATHENA"]
    before = control(service, delay=3600.0)["executions_started"]
    first = app.answer(query, Context())
    control(service, delay=0.0)
    assert first["status"] == 503
    assert first["retry_after"] >= 1
    found = first
    while found["status"] == 503:
        time.sleep(0.2)
        found = app.answer(query, Context())
    assert (found["items"], found["reason"]) == (3, "loaded")
    assert control(service)["executions_started"] - before == 1


def test_what_was_not_delivered_comes_again(app: ModuleType, valkey: ValkeyServer) -> None:
    """While L2 takes nothing the handlers report what failed, in the words of their sources."""
    message = {"messageId": "m1", "eventSource": "aws:sqs", "body": json.dumps(object_created())}
    ask(valkey.port, "ACL SETUSER sam-function -@all")
    assert app.object_changed({"Records": [message]}, Context()) == {"batchItemFailures": [{"itemIdentifier": "m1"}]}
    assert app.item_changed({"Records": [ITEM]}, Context()) == {"batchItemFailures": [{"itemIdentifier": "1"}]}


def test_on_aws_the_handlers_use_tokens(template: Any, tmp_path: Path) -> None:
    """The template's URL is one of TLS and of a cluster, to which the module connects with IAM."""
    given = template["Globals"]["Function"]["Environment"]["Variables"]["REDIS_URL"]["Fn::Sub"]
    url = given.replace("${Cache.Endpoint.Address}", "cache.invalid").replace("${Cache.Endpoint.Port}", "6379")
    names = dict.fromkeys(read_by_handlers(), "x") | {
        "REDIS_URL": url,
        "CACHE_NAME": "shop",
        "CACHE_USER": "shop-function",
    }
    names |= {"BUCKET": "bucket", "TABLE": "table"}
    code = f"""if True:
        import os, sys
        os.environ.update({names!r})
        sys.path.insert(0, {str(APP.parent)!r})
        import app
        print(app.cache._shared._store._tier.address.provider, app.cache._shared._store._tier)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith(
        "ElastiCacheIAM('shop-function', 'shop', serverless=True) RedisTier(rediss://cache.invalid:6379?cluster=true"
    )
