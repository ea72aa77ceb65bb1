//! Railway services as agents.
