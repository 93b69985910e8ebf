//! Performs a plan: keeps the present, sets what is to be set, and reads it back.
