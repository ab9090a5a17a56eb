"""The global dict, done right: state that outlives the invocation, bounded, with a life of its own for each value.

A module-level dict keeps what it was given until the container dies: it grows, it never notices a change, and it keeps a
customer's data for the next invocation. The same three lines on a cache have none of that, with no server at all.

Run it with `python examples/run.py global_dict`.
"""

from tiered_cache import MemoryTier, TieredCache
from tiered_cache.aws_lambda import lambda_handler

cache = TieredCache(MemoryTier(ttl="5m", stale_if_error="1h", max_bytes="32 MiB"))
loads = {"rates": 0, "card": 0}


def fetch_rates():
    loads["rates"] += 1
    return {"EUR": 1.0, "USD": 1.09, "CHF": 0.94}


def fetch_card(customer):
    loads["card"] += 1
    return {"customer": customer, "number": "4111 1111 1111 1111"}


def charge(customer, amount):
    card = cache.get_or_load(f"card:{customer}", lambda: fetch_card(customer), scope="invocation")
    return f"{amount:.2f} to the card that ends in {card['number'][-4:]}"


@lambda_handler(cache)
def handler(event, context):
    rates = cache.get_or_load("rates", fetch_rates)  # once per container and five minutes
    first = charge(event["customer"], event["amount"] * rates[event["currency"]])
    charge(event["customer"], 1)  # the card is read once more in this invocation, and is gone when it ends
    return {"charged": first, "loads": dict(loads)}
