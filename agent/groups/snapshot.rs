//! Snapshots: what consumer groups had committed at one moment, kept so that it can be brought back.
//!
//! A snapshot says of each group and partition what was committed, or that nothing was. It is an object of its own in a
//! folder of a store, `snapshots/<id>`, never overwritten.
