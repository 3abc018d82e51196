/* Tries what it is told, inside the guest, for `microagent doctor NAME`: it sends bytes and says what came of it.
 *
 * How this works. Questions are lines of stdin, answers lines of stdout, one each, in order:
 *
 *   clock                       clock SECONDS
 *   ping ADDRESS                what came of it, see below; its answer begins with the IP header
 *   udp ADDRESS PORT HEX
 *   tcp ADDRESS PORT HEX        HEX is sent once it is connected; "-" is nothing
 *   frame INTERFACE TYPE HEX    a frame as it is, and the first of that Ethernet type (decimal) to come back
 *
 *   answer HEX     bytes came           refused      by ICMP, or a reset in place of a connection
 *   reset          after it was there   closed       an end after it was there
 *   silent         nothing came         open         it is there, and nothing came
 *   error NUMBER   errno
 *
 * It decides nothing and knows nothing: what is asked, and what an answer means, is the host's to say.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1500, PATIENCE_MS = 4000 };

static void say_errno(void) {
	if (errno == ECONNREFUSED) puts("refused");
	else if (errno == ECONNRESET) puts("reset");
	else printf("error %d\n", errno);
}

static void say_answer(const unsigned char *data, ssize_t size) {
	fputs("answer ", stdout);
	for (ssize_t n = 0; n < size; n++) printf("%02x", data[n]);
	puts("");
}

static ssize_t unhex(const char *text, unsigned char *data) {
	ssize_t size = 0;
	unsigned byte;
	for (; size < MOST && sscanf(text, "%2x", &byte) == 1; text += 2) data[size++] = byte;
	return size;
}

static bool comes(int fd, short events) {
	struct pollfd wanted = {.fd = fd, .events = events};
	return poll(&wanted, 1, PATIENCE_MS) == 1;
}

static void listen_for(int fd, const char *nothing) {
	unsigned char data[MOST];
	if (!comes(fd, POLLIN)) { puts(nothing); return; }
	ssize_t size = recv(fd, data, sizeof data, 0);
	if (size < 0) say_errno();
	else if (size == 0) puts("closed");
	else say_answer(data, size);
}

static void ask(int fd, int type, const struct addrinfo *to, const unsigned char *data, ssize_t size) {
	int error = 0;
	socklen_t length = sizeof error;
	if (connect(fd, to->ai_addr, to->ai_addrlen) && errno != EINPROGRESS) { say_errno(); return; }
	if (type == SOCK_STREAM) {
		if (!comes(fd, POLLOUT)) { puts("silent"); return; }
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
		errno = error;
	}
	if (error || (size > 0 && send(fd, data, size, MSG_NOSIGNAL) != size)) say_errno();
	else listen_for(fd, type == SOCK_STREAM ? "open" : "silent");
}

static void put_on_wire(const char *interface, const char *type, const char *hex) {
	unsigned char data[MOST];
	struct sockaddr_ll where = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(interface)};
	where.sll_protocol = htons(atoi(type));
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	ssize_t size = unhex(hex, data);
	if (fd < 0 || bind(fd, (struct sockaddr *)&where, sizeof where) || send(fd, data, size, 0) != size) say_errno();
	else listen_for(fd, "silent");
	if (fd >= 0) close(fd);
}

static void attempt(const char *what, const char *address, const char *port, const char *hex) {
	/* An echo request with its checksum. Raw, since who may use ping sockets is the guest's own setting. */
	static const unsigned char echo[] = {8, 0, 0xf7, 0xfe, 0, 0, 0, 1};
	unsigned char data[MOST];
	bool ping = !strcmp(what, "ping");
	int type = ping ? SOCK_RAW : strcmp(what, "tcp") ? SOCK_DGRAM : SOCK_STREAM;
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = type}, *to;
	if (getaddrinfo(address, ping ? NULL : port, &hints, &to)) { printf("error %d\n", EINVAL); return; }
	ssize_t size = ping ? (ssize_t)sizeof echo : unhex(hex, data);
	if (ping) memcpy(data, echo, sizeof echo);
	int fd = socket(to->ai_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, ping ? IPPROTO_ICMP : 0);
	if (fd < 0) say_errno();
	else ask(fd, type, to, data, size), close(fd);
	freeaddrinfo(to);
}

int main(void) {
	static char line[2 * MOST + 256], hex[2 * MOST + 1];
	char what[8], address[64], port[8];
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof line, stdin)) {
		int words = sscanf(line, "%7s %63s %7s %3000s", what, address, port, hex);
		if (words == 1 && !strcmp(what, "clock")) printf("clock %lld\n", (long long)time(NULL));
		else if (words == 2 && !strcmp(what, "ping")) attempt(what, address, "", "");
		else if (words == 4 && !strcmp(what, "frame")) put_on_wire(address, port, hex);
		else if (words == 4) attempt(what, address, port, hex);
		else printf("error %d\n", EINVAL);
	}
	return 0;
}
