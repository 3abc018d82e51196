/* One command that `microagent exec` asks for: from the bytes that the host sends to a process. See execd.c. */
#ifndef REQUEST_H
#define REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/ioctl.h>

enum { MAX_REQUEST = 2 << 20 };    /* a command line with its environment, as Linux takes them */

/* As bytes: terminal (1 byte), rows, columns, number of variables (2 bytes each), then strings that end in NUL:
 * working directory and user (empty: the image's), variables as K=V, the command and its arguments. */
struct request {
	bool terminal;
	struct winsize size;
	char *workdir, *user, **variables, **command;
};

/* Two bytes of a number, the higher one first. */
static inline unsigned two(const char *p) { return (unsigned char)p[0] << 8 | (unsigned char)p[1]; }

/* False for bytes that are none. What `r` points at are the bytes, and `r->variables`, to be freed. */
bool read_request(char *bytes, size_t size, struct request *r);

/* In the child, in the guest's root: becomes the command, with what surrounds every command of this workspace. */
void become(struct request *r);

#endif
