//! The data plane: service proxy, DNS, ingress.
