"""The decorator among those of Powertools."""

import os

os.environ.setdefault("POWERTOOLS_TRACE_DISABLED", "true")

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from tiered_cache import TieredCache
from tiered_cache.aws_lambda import lambda_handler

cache = TieredCache()
logger = Logger(service="test")
metrics = Metrics(namespace="test", service="test")


def act(event, context):
    metrics.add_metric(name="Orders", unit=MetricUnit.Count, value=1)
    value = cache.get_or_load("k", lambda: "loaded", scope="invocation")
    logger.info("answered")
    return {"value": value, "invocations": cache.stats().container.invocations}


@logger.inject_lambda_context
@metrics.log_metrics(capture_cold_start_metric=True)
@lambda_handler(cache)
def below(event, context):
    return act(event, context)


@lambda_handler(cache)
@logger.inject_lambda_context
@metrics.log_metrics(capture_cold_start_metric=True)
def above(event, context):
    return act(event, context)
