"""A handler whose L2 is somebody else's, and fails where a snapshot is prepared and restored."""

from tiered_cache import MemoryTier, TieredCache
from tiered_cache.aws_lambda import lambda_handler
from tiered_cache.testing import InMemorySharedTier


class FaultyTier(InMemorySharedTier):
    """Its store raises when it is to be made ready for a snapshot."""

    def bind(self, namespace):
        store = super().bind(namespace)
        store.suspend = self._fail
        return store

    def _fail(self):
        raise OSError("no such socket")


cache = TieredCache(MemoryTier(ttl="1m"), FaultyTier(ttl="1h"))


@lambda_handler(cache)
def handler(event, context):
    return {"value": cache.get_or_load("k", lambda: "value"), "restores": cache.stats().container.restores}
