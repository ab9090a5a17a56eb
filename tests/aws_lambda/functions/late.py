"""A handler that is decorated in its first invocation, when Lambda registers no extension any more."""

from tiered_cache import TieredCache
from tiered_cache.aws_lambda import lambda_handler

cache = TieredCache()
done = []


def put_off(event, context):
    cache.after_response(done.append, "late")


def handler(event, context):
    lambda_handler(cache, after_response=True)(put_off)(event, context)
    return {"done": done[:]}
