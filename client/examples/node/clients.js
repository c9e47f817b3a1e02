// SPDX-License-Identifier: Apache-2.0

// Makes gRPC's client of a generated service: protoc-gen-es generates messages and descriptions of
// services, @grpc/grpc-js makes the calls.

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import grpc from "@grpc/grpc-js";

// Every replica behind a name that resolves to several gets its share of the calls.
const SERVICE_CONFIG = JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] });

/**
 * A client with a method for each RPC, as gRPC's own generator would make it. Requests are given as
 * plain objects with the fields' names in camelCase.
 *
 * @param service A generated service, for example LedgerService.
 * @param {string} address host:port, or dns:///name:port for all replicas.
 * @param {grpc.ChannelCredentials} credentials Plain text on loopback, else TLS.
 */
export function clientOf(service, address, credentials) {
  const methods = service.methods.map((method) => [method.name, {
    path: `/${service.typeName}/${method.name}`,
    requestStream: ["client_streaming", "bidi_streaming"].includes(method.methodKind),
    responseStream: ["server_streaming", "bidi_streaming"].includes(method.methodKind),
    requestSerialize: (fields) => Buffer.from(toBinary(method.input, create(method.input, fields))),
    responseDeserialize: (bytes) => fromBinary(method.output, bytes),
  }]);
  const Client = grpc.makeGenericClientConstructor(Object.fromEntries(methods), service.typeName);
  return new Client(address, credentials, { "grpc.service_config": SERVICE_CONFIG });
}
