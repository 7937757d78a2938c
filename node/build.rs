//! Generates the data plane's gRPC code.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::compile_protos("proto/dataplane.proto")?;
    Ok(())
}
