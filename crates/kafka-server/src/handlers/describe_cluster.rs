//! DescribeCluster (KIP-700, KIP-919), as a broker answers it.

use ferrymq_kafka_codec::messages::describe_cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
};
use ferrymq_kafka_codec::{ErrorCode, StrBytes};

use super::metadata::CLUSTER_OPERATIONS;
use crate::cluster::Node;
use crate::context::Context;
use crate::listener::Listener;

/// The endpoints of brokers, which we are.
const BROKERS: i8 = 1;
/// The endpoints of controllers, which we are not.
const CONTROLLERS: i8 = 2;

fn broker(node: Node) -> DescribeClusterBroker {
    let Node { id, host, port } = node;
    DescribeClusterBroker { broker_id: id, host, port, ..Default::default() }
}

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
    let mut response = DescribeClusterResponse {
        cluster_id: StrBytes::from(context.broker.cluster_id().to_owned()),
        controller_id: context.controller(),
        brokers: context.nodes(listener).into_iter().map(broker).collect(),
        ..Default::default()
    };
    if request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    response
}
