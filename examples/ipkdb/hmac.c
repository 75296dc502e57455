/* HMAC (RFC 2104) over MD5. The states after both padded keys are computed once; the key itself isn't kept. */
#include "ipkdb.h"

static struct md5 inner, outer;

static void begin(struct md5 *context, const uint8_t block[MD5_BLOCK], uint8_t pad)
{
	uint8_t mixed[MD5_BLOCK];

	for (unsigned int at = 0; at < MD5_BLOCK; at++)
		mixed[at] = block[at] ^ pad;
	md5_init(context);
	md5_update(context, mixed, sizeof(mixed));
}

void hmac_key(const uint8_t *key, size_t length)
{
	uint8_t block[MD5_BLOCK];

	ipkdbzero(block, sizeof(block));
	if (length > sizeof(block)) {
		struct md5 context;

		md5_init(&context);
		md5_update(&context, key, length);
		md5_final(&context, block);
	} else {
		ipkdbcopy(key, block, length);
	}
	begin(&inner, block, 0x36);
	begin(&outer, block, 0x5c);
	ipkdbzero(block, sizeof(block));
}

void hmac(const uint8_t *message, size_t length, uint8_t result[MAC_SIZE])
{
	struct md5 context;

	ipkdbcopy(&inner, &context, sizeof(context));
	md5_update(&context, message, length);
	md5_final(&context, result);
	ipkdbcopy(&outer, &context, sizeof(context));
	md5_update(&context, result, MAC_SIZE);
	md5_final(&context, result);
}
