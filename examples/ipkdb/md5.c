/* MD5 as in RFC 1321, section 3. */
#include "ipkdb.h"

#define LENGTH_AT 56 /* offset, in the last block, of the message's length in bits */

/* T[i] of section 3.4: the integer part of 2^32 * abs(sin(i + 1)). */
static const uint32_t sines[MD5_BLOCK] = {
	0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
	0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
	0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
	0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
	0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
	0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
	0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
	0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
};

static const uint8_t shifts[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};

static uint32_t little_endian(const uint8_t *from)
{
	return (uint32_t)from[3] << 24 | (uint32_t)from[2] << 16 | (uint32_t)from[1] << 8 | from[0];
}

static uint32_t rotated(uint32_t value, unsigned int count)
{
	return value << count | value >> (32 - count);
}

/* The auxiliary functions F, G, H and I, one for each round. */
static uint32_t mixed(unsigned int round, uint32_t x, uint32_t y, uint32_t z)
{
	switch (round) {
	case 0:
		return (x & y) | (~x & z);
	case 1:
		return (x & z) | (y & ~z);
	case 2:
		return x ^ y ^ z;
	default:
		return y ^ (x | ~z);
	}
}

/* The index of the word of the block that a step uses. */
static unsigned int word_of(unsigned int round, unsigned int step)
{
	static const uint8_t factor[4] = {1, 5, 3, 7}, first[4] = {0, 1, 5, 0};

	return (factor[round] * step + first[round]) % 16;
}

static void take_block(struct md5 *context)
{
	uint32_t a = context->state[0], b = context->state[1], c = context->state[2], d = context->state[3];

	for (unsigned int step = 0; step < MD5_BLOCK; step++) {
		unsigned int round = step / 16;
		uint32_t word = little_endian(context->block + 4 * word_of(round, step));
		uint32_t sum = a + mixed(round, b, c, d) + word + sines[step];

		a = d;
		d = c;
		c = b;
		b += rotated(sum, shifts[round][step % 4]);
	}
	context->state[0] += a;
	context->state[1] += b;
	context->state[2] += c;
	context->state[3] += d;
}

void md5_init(struct md5 *context)
{
	static const uint32_t start[4] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};

	ipkdbcopy(start, context->state, sizeof(start));
	context->length = 0;
}

void md5_update(struct md5 *context, const uint8_t *data, size_t length)
{
	while (length-- > 0) {
		context->block[context->length++ % MD5_BLOCK] = *data++;
		if (context->length % MD5_BLOCK == 0)
			take_block(context);
	}
}

void md5_final(struct md5 *context, uint8_t result[MAC_SIZE])
{
	static const uint8_t one = 0x80, zero = 0;
	uint64_t bits = context->length * 8;

	md5_update(context, &one, 1);
	while (context->length % MD5_BLOCK != LENGTH_AT)
		md5_update(context, &zero, 1);
	for (unsigned int at = 0; at < 8; at++) {
		uint8_t byte = (uint8_t)(bits >> (8 * at));

		md5_update(context, &byte, 1);
	}
	for (unsigned int at = 0; at < MAC_SIZE; at++)
		result[at] = (uint8_t)(context->state[at / 4] >> (8 * (at % 4)));
}
