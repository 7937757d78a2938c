//! Kubelet's job: pod workers, status, probes, volumes, leases, and the node API.
