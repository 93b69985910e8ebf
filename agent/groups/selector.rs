//! What positions groups are to get instead of those of an archive: the selectors of Kafka's own `kafka-consumer-groups`.
