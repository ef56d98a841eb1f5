# Varnish: event streams are passed, streamed, with an upstream connection for each subscriber.
vcl 4.1;

backend default {
	.host = "127.0.0.1";
	.port = "BENCH_ORIGIN";
	.first_byte_timeout = 1h;
	.between_bytes_timeout = 1h;
}

sub vcl_recv {
	return (pass);
}

sub vcl_backend_response {
	set beresp.do_stream = true;
	set beresp.uncacheable = true;
	set beresp.ttl = 0s;
	return (deliver);
}
