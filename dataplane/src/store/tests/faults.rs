//! Faults under the store: bytes are right or refused.
