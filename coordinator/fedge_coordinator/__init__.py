"""The coordinator: rounds, aggregation, enrolment, settlement, fedgectl."""
