/* What a request says, and how a process becomes what it asks for. */
#define _GNU_SOURCE
#include "request.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool read_request(char *bytes, size_t size, struct request *r) {
	char *p = bytes, *end = p + size;
	if (size < 8 || end[-1] != 0) return false;
	r->terminal = p[0];
	r->size = (struct winsize){.ws_row = two(p + 1), .ws_col = two(p + 3)};
	unsigned variables = two(p + 5), count = 0;
	p += 7;
	for (char *q = p; q < end; q++) count += !*q;
	char **strings = calloc(count + 2, sizeof *strings);
	if (!strings || count < 2 + variables + 1) { free(strings); return false; }
	r->workdir = p, p += strlen(p) + 1;
	r->user = p, p += strlen(p) + 1;
	char **next = r->variables = strings;
	for (unsigned n = 0; n < variables; n++, p += strlen(p) + 1) *next++ = p;
	*next++ = NULL;
	r->command = next;
	for (; p < end; p += strlen(p) + 1) *next++ = p;
	return true;
}

static bool same_name(const char *a, const char *b) {
	size_t n = strcspn(a, "=");
	return n == strcspn(b, "=") && !memcmp(a, b, n);
}

void become(struct request *r) {
	static char text[MAX_REQUEST];
	int fd = open("/run/microagent/surroundings", O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (size < 2) dprintf(2, "microagent: /run/microagent/surroundings cannot be read\n"), _exit(126);
	/* The image's own directory is made where it is missing, as in Docker; one that somebody types is not. */
	struct stat there;
	if (*r->workdir && (stat(r->workdir, &there) || !S_ISDIR(there.st_mode)))
		dprintf(2, "microagent: there is no directory %s\n", r->workdir), _exit(126);
	char *p = text, *end = text + size;
	char *workdir = p, *user = (p += strlen(p) + 1);
	size_t count = 8;
	for (char *q = text; q < end; q++) count += !*q;
	for (char **v = r->variables; *v; v++) count++;
	for (char **c = r->command; *c; c++) count++;
	char **lists = calloc(count, sizeof *lists), **next = lists, **environment = lists;
	for (p += strlen(p) + 1; p < end; p += strlen(p) + 1) {
		char **v = r->variables;
		while (*v && !same_name(*v, p)) v++;
		if (!*v) *next++ = p;
	}
	for (char **v = r->variables; *v; v++) *next++ = *v;
	*next++ = NULL;
	char **argv = next;
	*next++ = "sh", *next++ = "/run/microagent/launch";
	*next++ = *r->workdir ? r->workdir : workdir, *next++ = *r->user ? r->user : user;
	for (char **c = r->command; *c; c++) *next++ = *c;
	execve("/run/microagent/busybox", argv, environment);
	dprintf(2, "microagent: %s\n", strerror(errno));
	_exit(126);
}
