"""L2: Redis or Valkey, behind one deadline and a circuit breaker. Only this package imports redis, when first used."""
