/* Runs commands in the guest for `microagent exec`: several at once, over one virtio port.
 *
 * How this works. The port carries frames both ways; a frame is a kind (one byte), the number of a session that the
 * host chose (four bytes), a length (two bytes, at most MAX_PAYLOAD) and that many bytes. All numbers are big endian.
 *
 *   from the host                                  to the host
 *   'h' a mark: forget everything, say it back     'h' the mark
 *   'a' a part of what 'o' will start              's' it was started
 *   'o' start it (see request.h)                   '1' '2' bytes of stdout, stderr
 *   'i' bytes for stdin     'e' their end          'c' so many more bytes of stdin may come (four bytes)
 *   'r' rows, columns       's' a signal's number  'x' it ended: one byte, 128+N for signal N; the session's last frame
 *   'k' kill all of it                             'f' it did not start: text; the session's last frame
 *   'c' so many more bytes of output are wanted
 *
 * Neither side sends more than the other has asked for, so a session that is not read stops nobody but itself.
 * Zero bytes between frames are skipped: a host that connects anew sends more of them than a frame is long, then 'h',
 * and is understood wherever the one before it broke off. When the host goes, every session is killed.
 *
 * A session is a process in a cgroup of its own. What it left running in the background when it ended by itself goes
 * on, as a part of the workspace. Started by init with the guest's root as working directory, init's as root.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "request.h"

enum {
	HEADER = 7,
	MAX_PAYLOAD = 16384,
	MAX_SESSIONS = 64,
	INPUT_WINDOW = 65536,
	OUT_SIZE = 256 << 10,
	OUT_SPARE = 64 << 10,     /* kept for frames that are not output */
	MAX_DRAIN = 1 << 20,      /* the largest pipe: what may have been written when a command ended */
	PAUSE_MS = 100,
};

struct session {
	uint32_t number, group;
	pid_t pid;                /* 0: not started */
	int in, out, err;         /* on a terminal `in` and `out` are two descriptors of its master */
	bool terminal, ended, told, in_end;
	int code;
	uint32_t window;          /* bytes of output the host wants */
	int drain;
	char *request;
	size_t request_size, input_size;
	char input[INPUT_WINDOW];
	struct session *next;
};

static struct session *sessions;
static int port = -1;
static char out[OUT_SIZE];
static size_t out_size;
static uint32_t groups;
static sigset_t before;

/* ---- frames to the host */

static size_t room(void) { return OUT_SIZE - out_size; }

static void frame(char kind, uint32_t number, const void *payload, size_t size) {
	char *p = out + out_size;
	p[0] = kind;
	p[1] = number >> 24, p[2] = number >> 16, p[3] = number >> 8, p[4] = number;
	p[5] = size >> 8, p[6] = size;
	memcpy(p + HEADER, payload, size);
	out_size += HEADER + size;
}

static void flush_out(void) {
	while (out_size > 0) {
		ssize_t n = write(port, out, out_size);
		if (n <= 0) return;
		memmove(out, out + n, out_size - n);
		out_size -= n;
	}
}

/* ---- cgroups: one a session; "command" is the workspace's own */

static bool write_group(uint32_t group, const char *file, const char *text) {
	char path[64];
	snprintf(path, sizeof path, "/cgroup/exec-%u/%s", group, file);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0) return false;
	bool written = write(fd, text, strlen(text)) >= 0;
	close(fd);
	return written;
}

static bool remove_group(uint32_t group) {
	char path[64];
	snprintf(path, sizeof path, "/cgroup/exec-%u", group);
	return rmdir(path) == 0 || errno != EBUSY;
}

/* What a command left in the background belongs to the workspace from now on. */
static void adopt_group(uint32_t group) {
	char path[64], pid[32];
	snprintf(path, sizeof path, "/cgroup/exec-%u/cgroup.procs", group);
	for (int tries = 0; tries < 10 && !remove_group(group); tries++) {
		FILE *list = fopen(path, "re");
		if (!list) return;
		while (fgets(pid, sizeof pid, list)) {
			int fd = open("/cgroup/command/cgroup.procs", O_WRONLY | O_CLOEXEC);
			if (fd < 0) break;
			(void)!write(fd, pid, strlen(pid));
			close(fd);
		}
		fclose(list);
	}
}

/* ---- sessions */

static void close_fd(int *fd) {
	if (*fd >= 0) close(*fd);
	*fd = -1;
}

static struct session *find(uint32_t number) {
	struct session *s = sessions;
	while (s && s->number != number) s = s->next;
	return s;
}

/* What comes from the host next for this number is for nobody. A command that has not ended is killed. */
static void forget(struct session *s) {
	for (struct session **p = &sessions; *p; p = &(*p)->next)
		if (*p == s) { *p = s->next; break; }
	close_fd(&s->in), close_fd(&s->out), close_fd(&s->err);
	if (s->pid && !s->ended) {
		write_group(s->group, "cgroup.kill", "1");
		kill(s->pid, SIGKILL);    /* it may not have entered its group yet */
		waitpid(s->pid, NULL, 0);
		/* The rest dies a moment later. */
		for (int tries = 0; tries < 100 && !remove_group(s->group); tries++) usleep(10000);
	}
	free(s->request);
	free(s);
}

static void fail(struct session *s, const char *what) {
	char text[128];
	int size = snprintf(text, sizeof text, "%s: %s", what, strerror(errno));
	frame('f', s->number, text, size);
	forget(s);
}

static void child(struct session *s, struct request *r, int in, int out_end, int err) {
	setsid();
	if (r->terminal) ioctl(in, TIOCSCTTY, 0);
	dup2(in, 0), dup2(out_end, 1), dup2(err, 2);
	if (!write_group(s->group, "cgroup.procs", "0")) _exit(126);
	syscall(SYS_close_range, 3, ~0U, 0);
	/* Init's background commands ignore some signals, and we do; whoever runs the command expects none ignored. */
	for (int n = 1; n < NSIG; n++) signal(n, SIG_DFL);
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (chroot(".") || chdir("/")) _exit(126);
	become(r);
}

/* A pipe whose ends are both above stderr's; whoever runs the command may open it again by /dev/stdout. */
static bool make_pipe(int ends[2]) { return pipe2(ends, O_CLOEXEC) == 0 && fchmod(ends[0], 0666) == 0; }

static int make_terminal(struct winsize *size, int *master) {
	*master = open("dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	int unlocked = 0;
	if (*master < 0 || ioctl(*master, TIOCSPTLCK, &unlocked)) return -1;
	int slave = ioctl(*master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave >= 0) ioctl(slave, TIOCSWINSZ, size), fchmod(slave, 0666);
	return slave;
}

static void start(struct session *s) {
	struct request r;
	errno = EINVAL;
	if (!read_request(s->request, s->request_size, &r)) { fail(s, "the request"); return; }
	char path[64];
	s->group = ++groups;
	snprintf(path, sizeof path, "/cgroup/exec-%u", s->group);
	int in[2] = {-1, -1}, output[2] = {-1, -1}, err[2] = {-1, -1};
	s->terminal = r.terminal;
	bool made = mkdir(path, 0700) == 0;
	if (r.terminal) {
		made = made && (in[0] = make_terminal(&r.size, &in[1])) >= 0 && (output[0] = fcntl(in[1], F_DUPFD_CLOEXEC, 3)) >= 0;
		output[1] = err[1] = in[0];
	} else {
		made = made && make_pipe(in) && make_pipe(output) && make_pipe(err);
	}
	s->in = in[1], s->out = output[0], s->err = err[0];
	pid_t pid = made ? fork() : -1;
	if (pid == 0) child(s, &r, in[0], output[1], err[1]);
	int reason = errno;
	close_fd(&in[0]);
	if (!r.terminal) close_fd(&output[1]), close_fd(&err[1]);
	free(r.variables);
	free(s->request), s->request = NULL;
	errno = reason;
	if (pid < 0) { fail(s, "the command cannot be started"); remove_group(groups); return; }
	s->pid = pid;
	frame('s', s->number, "", 0);
	int *fds[] = {&s->in, &s->out, &s->err};
	for (int n = 0; n < 3; n++)
		if (*fds[n] >= 0) fcntl(*fds[n], F_SETFL, fcntl(*fds[n], F_GETFL) | O_NONBLOCK);
}

static void feed(struct session *s) {
	size_t taken = 0;
	if (s->in >= 0 && s->input_size > 0) {
		ssize_t n = write(s->in, s->input, s->input_size);
		if (n > 0) taken = n;
		else if (errno != EAGAIN) close_fd(&s->in);
	}
	if (s->in < 0) taken = s->input_size;    /* nobody reads it any more */
	memmove(s->input, s->input + taken, s->input_size -= taken);
	if (taken) {
		char count[] = {taken >> 24, taken >> 16, taken >> 8, taken};
		frame('c', s->number, count, sizeof count);
	}
	if (s->in_end && s->input_size == 0 && s->in >= 0) {
		/* The end of a terminal's input is a character (^D). */
		if (s->terminal && write(s->in, "\4", 1) < 0 && errno == EAGAIN) return;
		close_fd(&s->in);
	}
}

/* Passes on what is there; false when there is nothing now, closes at the end. */
static bool pass(struct session *s, int *fd, char kind) {
	char chunk[MAX_PAYLOAD];
	size_t most = s->window < sizeof chunk ? s->window : sizeof chunk;
	if (*fd < 0 || most == 0 || room() < OUT_SPARE + HEADER + sizeof chunk) return false;
	ssize_t n = read(*fd, chunk, most);
	if (n > 0) {
		s->window -= n;
		frame(kind, s->number, chunk, n);
		return true;
	}
	if (n == 0 || errno != EAGAIN) close_fd(fd);    /* a terminal that nobody holds any more says EIO */
	else if (s->ended) close_fd(fd);                /* the command is over, and this was all it wrote */
	return false;
}

/* Both outputs in turn; after the end no more than the pipes held then, since somebody else may write on. */
static void relay(struct session *s) {
	for (bool more = true; more;) {
		uint32_t window = s->window;
		more = pass(s, &s->out, '1') | pass(s, &s->err, '2');
		if (!s->ended) continue;
		s->drain -= window - s->window;
		if (s->drain <= 0) close_fd(&s->out), close_fd(&s->err);
	}
}

static void tell_end(struct session *s) {
	char code = s->code;
	frame('x', s->number, &code, 1);
	adopt_group(s->group);
	forget(s);
}

static void reap(void) {
	for (struct session *s = sessions; s; s = s->next) {
		int status;
		if (!s->pid || s->ended || waitpid(s->pid, &status, WNOHANG) != s->pid) continue;
		s->ended = true;
		s->code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
		s->drain = MAX_DRAIN;
		close_fd(&s->in);
	}
}

/* ---- frames from the host */

static void forget_all(void) {
	while (sessions) forget(sessions);
}

static uint32_t four(const char *p) { return (uint32_t)two(p) << 16 | two(p + 2); }

static void begin(uint32_t number, const char *payload, size_t size) {
	struct session *s = find(number);
	if (!s) {
		int count = 0;
		for (struct session *other = sessions; other; other = other->next) count++;
		s = count < MAX_SESSIONS ? calloc(1, sizeof *s) : NULL;
		if (!s) { frame('f', number, "too many commands", 17); return; }
		s->number = number, s->in = s->out = s->err = -1;
		s->next = sessions, sessions = s;
	}
	char *grown = s->pid || s->request_size + size > MAX_REQUEST ? NULL : realloc(s->request, s->request_size + size + 1);
	errno = E2BIG;
	if (!grown) { fail(s, "the command"); return; }
	memcpy(grown + s->request_size, payload, size);
	s->request = grown, s->request_size += size;
}

static void handle(char kind, uint32_t number, const char *payload, size_t size) {
	if (kind == 'h') {
		forget_all();
		out_size = 0;
		frame('h', 0, payload, size);
		return;
	}
	if (kind == 'a') { begin(number, payload, size); return; }
	struct session *s = find(number);
	if (!s) return;    /* it has ended, and the host does not know yet */
	switch (kind) {
	case 'o': if (!s->pid) start(s); break;
	case 'i':
		if (s->input_size + size > INPUT_WINDOW) break;    /* more than was asked for */
		memcpy(s->input + s->input_size, payload, size);
		s->input_size += size;
		break;
	case 'e': s->in_end = true; break;
	case 'r':
		if (size == 4 && s->terminal && s->out >= 0) {
			struct winsize w = {.ws_row = two(payload), .ws_col = two(payload + 2)};
			ioctl(s->out, TIOCSWINSZ, &w);
		}
		break;
	case 's': if (size == 1 && s->pid && !s->ended) kill(-s->pid, payload[0]); break;
	case 'k': forget(s); break;
	case 'c': if (size == 4) s->window += four(payload); break;
	}
}

static void listen_to_host(void) {
	static char in[HEADER + MAX_PAYLOAD];
	static size_t in_size;
	char chunk[MAX_PAYLOAD];
	ssize_t n = read(port, chunk, sizeof chunk);
	for (char *p = chunk; n > 0;) {
		if (in_size == 0 && !*p) { p++, n--; continue; }
		size_t whole = in_size < HEADER ? HEADER : HEADER + two(in + 5);
		size_t part = whole - in_size < (size_t)n ? whole - in_size : (size_t)n;
		memcpy(in + in_size, p, part);
		in_size += part, p += part, n -= part;
		if (in_size == HEADER && two(in + 5) > MAX_PAYLOAD) in_size = 0;    /* not ours; 'h' puts it right */
		if (in_size >= HEADER && in_size == HEADER + two(in + 5)) {
			handle(in[0], four(in + 1), in + HEADER, in_size - HEADER);
			in_size = 0;
		}
	}
}

/* ---- the loop */

static void step(bool host, int children) {
	struct pollfd fds[2 + 3 * MAX_SESSIONS];
	int count = 2;
	fds[0] = (struct pollfd){host ? port : -1, 0, 0};
	if (room() >= OUT_SPARE) fds[0].events |= POLLIN;
	if (out_size) fds[0].events |= POLLOUT;
	fds[1] = (struct pollfd){children, POLLIN, 0};
	for (struct session *s = sessions; s; s = s->next) {
		bool wanted = s->window > 0 && room() >= OUT_SPARE + HEADER + MAX_PAYLOAD;
		if (s->in >= 0 && (s->input_size || s->in_end)) fds[count++] = (struct pollfd){s->in, POLLOUT, 0};
		if (s->out >= 0 && wanted) fds[count++] = (struct pollfd){s->out, POLLIN, 0};
		if (s->err >= 0 && wanted) fds[count++] = (struct pollfd){s->err, POLLIN, 0};
	}
	poll(fds, count, host ? -1 : PAUSE_MS);
	struct signalfd_siginfo info;
	while (read(children, &info, sizeof info) > 0) {}
	if (fds[0].revents & POLLIN) listen_to_host();
	reap();
	for (struct session *s = sessions, *next; s; s = next) {
		next = s->next;
		if (room() < OUT_SPARE / 2) break;
		if (!s->pid) continue;
		feed(s);
		relay(s);
		if (s->ended && s->out < 0 && s->err < 0) tell_end(s);
	}
	flush_out();
}

int main(int argc, char **argv) {
	if (argc != 2) return 2;
	sigset_t child_ended;
	sigemptyset(&child_ended);
	sigaddset(&child_ended, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child_ended, &before);
	int children = signalfd(-1, &child_ended, SFD_CLOEXEC | SFD_NONBLOCK);
	/* The port appears when the host has added it. */
	while ((port = open(argv[1], O_RDWR | O_NONBLOCK | O_CLOEXEC)) < 0) usleep(PAUSE_MS * 1000);
	signal(SIGPIPE, SIG_IGN);
	for (;;) {
		struct pollfd state = {port, 0, 0};
		bool host = poll(&state, 1, 0) >= 0 && !(state.revents & POLLHUP);
		if (!host) {
			forget_all();
			out_size = 0;
		}
		step(host, children);
	}
}
