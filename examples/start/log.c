#include <stdarg.h>

#include "small.h"

static struct kern_msgbuf message_buffer = {.msg_magic = MSG_MAGIC, .msg_bufs = sizeof(message_buffer.msg_bufc)};
struct kern_msgbuf *msgbufp = &message_buffer;

static void put(char character)
{
	msgbufp->msg_bufc[msgbufp->msg_bufx++] = character;
	if (msgbufp->msg_bufx == msgbufp->msg_bufs)
		msgbufp->msg_bufx = 0;
	serial_character(character);
}

static void put_string(const char *string)
{
	while (*string)
		put(*string++);
}

static void put_number(unsigned long value, unsigned int base, unsigned int width)
{
	char digits[3 * sizeof(value)];
	unsigned int count = 0;

	do {
		digits[count++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value > 0);
	for (; width > count; width--)
		put('0');
	while (count > 0)
		put(digits[--count]);
}

void printf(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	for (; *format; format++) {
		unsigned int width = 0;
		bool wide = false;

		if (*format != '%') {
			put(*format);
			continue;
		}
		format++;
		if (*format == '#') {
			put_string("0x");
			format++;
		}
		for (; *format >= '0' && *format <= '9'; format++)
			width = width * 10 + (unsigned int)(*format - '0');
		if (*format == 'l') {
			wide = true;
			format++;
		}
		switch (*format) {
		case 'c':
			put((char)va_arg(arguments, int));
			break;
		case 's':
			put_string(va_arg(arguments, const char *));
			break;
		case 'd': {
			int value = va_arg(arguments, int);

			if (value < 0)
				put('-');
			put_number(value < 0 ? -(unsigned long)value : (unsigned long)value, 10, width);
			break;
		}
		case 'u':
		case 'x':
			put_number(wide ? va_arg(arguments, unsigned long) : va_arg(arguments, unsigned int),
				   *format == 'x' ? 16 : 10, width);
			break;
		case 'p':
			put_string("0x");
			put_number((uintptr_t)va_arg(arguments, void *), 16, 0);
			break;
		default:
			put(*format);
		}
	}
	va_end(arguments);
}

void log_print(void)
{
	long at = msgbufp->msg_bufx;

	/* Until the buffer has been full once, it has zeros from msg_bufx on. */
	do {
		if (msgbufp->msg_bufc[at])
			serial_character(msgbufp->msg_bufc[at]);
		if (++at == msgbufp->msg_bufs)
			at = 0;
	} while (at != msgbufp->msg_bufx);
}
