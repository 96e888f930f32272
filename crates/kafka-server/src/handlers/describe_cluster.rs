//! DescribeCluster (KIP-700, KIP-919), as a broker answers it.

use ferrymq_kafka_codec::messages::describe_cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
};
use ferrymq_kafka_codec::{ErrorCode, StrBytes};

use super::metadata::CLUSTER_OPERATIONS;
use crate::context::Context;
use crate::listener::Listener;

/// The endpoints of brokers, which we are.
const BROKERS: i8 = 1;
/// The endpoints of controllers, which we are not.
const CONTROLLERS: i8 = 2;

pub(crate) fn handle(
    context: &Context,
    listener: &Listener,
    version: i16,
    request: &DescribeClusterRequest,
) -> DescribeClusterResponse {
    let failed = |code: ErrorCode, text: String| DescribeClusterResponse {
        // Version 0 did not know of endpoint types and has no code of its own for them.
        error_code: if version == 0 { ErrorCode::InvalidRequest } else { code }.code(),
        error_message: Some(StrBytes::from(text)),
        ..Default::default()
    };
    match request.endpoint_type {
        BROKERS => {}
        CONTROLLERS => {
            let text = "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type \
                        CONTROLLER";
            return failed(ErrorCode::MismatchedEndpointType, text.to_owned());
        }
        other => {
            return failed(ErrorCode::UnsupportedEndpointType, format!("Unsupported endpoint type {other}"));
        }
    }
    let config = &context.config;
    let mut response = DescribeClusterResponse {
        cluster_id: StrBytes::from(context.broker.cluster_id().to_owned()),
        controller_id: config.node_id,
        brokers: vec![DescribeClusterBroker {
            broker_id: config.node_id,
            host: StrBytes::from(listener.advertised.host.clone()),
            port: i32::from(listener.advertised.port),
            ..Default::default()
        }],
        ..Default::default()
    };
    if request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    response
}
