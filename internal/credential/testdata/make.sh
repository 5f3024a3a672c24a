#!/usr/bin/env bash
# Made the files beside it, with OpenSSL 3.0: the forms in which other programs write keys. Running it again makes other keys.
set -euo pipefail
cd "$(dirname "$0")"
pass='pass:zażółć gęślą 1'

openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ec.pkcs8.pem
openssl ec -in ec.pkcs8.pem -out ec.sec1.plain.pem 2>/dev/null
(openssl ecparam -name prime256v1 && cat ec.sec1.plain.pem) >ec.sec1.pem && rm ec.sec1.plain.pem # as ecparam -genkey writes it
openssl pkcs8 -topk8 -in ec.pkcs8.pem -passout "$pass" -out ec.sha256-aes256.pem
openssl pkcs8 -topk8 -in ec.pkcs8.pem -passout "$pass" -v2 aes-128-cbc -v2prf hmacWithSHA1 -out ec.sha1-aes128.pem
openssl pkcs8 -topk8 -in ec.pkcs8.pem -passout "$pass" -v2 aes-192-cbc -v2prf hmacWithSHA384 -out ec.sha384-aes192.pem
openssl pkcs8 -topk8 -in ec.pkcs8.pem -passout "$pass" -v2 aes-256-cbc -v2prf hmacWithSHA512 -out ec.sha512-aes256.pem
openssl pkcs8 -topk8 -in ec.pkcs8.pem -passout "$pass" -scrypt -out ec.scrypt.pem
openssl pkcs8 -topk8 -in ec.pkcs8.pem -passout "$pass" -outform DER -out ec.sha256-aes256.der
openssl pkcs8 -topk8 -in ec.pkcs8.pem -passout "$pass" -v2 des3 -out ec.refused-des3.pem
openssl pkcs8 -topk8 -in ec.pkcs8.pem -passout "$pass" -v1 PBE-SHA1-3DES -out ec.refused-pbes1.pem
openssl ec -in ec.pkcs8.pem -aes256 -passout "$pass" -out ec.refused-traditional.pem
openssl req -x509 -key ec.pkcs8.pem -days 36500 -utf8 -addext keyUsage=critical,digitalSignature \
	-subj '/C=PL/CN=Przykładowa Firma/O=Przykładowa Firma/2.5.4.97=VATPL-5265877635' -out ec.certificate.pem
openssl pkcs12 -export -inkey ec.pkcs8.pem -in ec.certificate.pem -passout "$pass" -out ec.modern.p12
openssl pkcs12 -export -legacy -inkey ec.pkcs8.pem -in ec.certificate.pem -passout "$pass" -out ec.legacy.p12

openssl genrsa -out rsa.pkcs8.pem 2048
openssl rsa -in rsa.pkcs8.pem -traditional -out rsa.pkcs1.pem
openssl rsa -in rsa.pkcs8.pem -traditional -outform DER -out rsa.pkcs1.der
openssl req -x509 -key rsa.pkcs8.pem -days 36500 -subj '/C=PL/CN=Jan Kowalski/serialNumber=PNOPL-90010112345' -outform DER -out rsa.certificate.der

openssl req -x509 -newkey rsa-pss -pkeyopt rsa_keygen_bits:2048 -nodes -days 36500 -subj '/C=PL/CN=Jan Kowalski/serialNumber=PNOPL-90010112345' \
	-keyout pss.pkcs8.pem -out pss.certificate.pem
openssl pkcs8 -topk8 -in pss.pkcs8.pem -passout "$pass" -out pss.sha256-aes256.pem
