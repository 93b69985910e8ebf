//! Makes plans: looks at a cluster, and says for each partition of each group where it is and where it is to be.
//!
//! Nothing is changed here.
