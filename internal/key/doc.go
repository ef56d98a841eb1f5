// Package key says who may share a stream, by one principle in two halves: two
// requests with the same key are the same request, and what is not in the key is
// not sent upstream. All that an answer can depend on is then the same for
// everyone who is given it.
//
//	Policy.Parts      what is in the key of a request
//	Policy.Clean      the request as it is sent upstream: what is not in the key is out
//	Policy.Heed       what stands behind sse and asks for more: in the key then, or out
//	Policy.WhyPrivate whether the application says that its answer is not for all
//
// What a policy does not know counts: an unknown header field keeps clients apart.
package key
