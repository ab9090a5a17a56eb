"""L2: Redis or Valkey, behind one deadline and one circuit breaker. The only package that imports redis, when first used."""
