/**
 * TLS: the certificate and its key, from files that may change while the server runs.
 *
 * They are looked at now and then, whole: a pair that is not complete, or that the platform does not take, leaves the one in use
 * where it is.
 */

/** Where the certificate chain and its private key are, in PEM. */
export interface CertificateFiles {
  readonly certificateFile: string;
  readonly keyFile: string;
}

/** A certificate chain and its private key, in PEM. */
export interface Certificate {
  readonly cert: string;
  readonly key: string;
}

/** How often the files are looked at. */
const LOOK_MS = 5_000;

/** @throws {Error} that names the file that cannot be read. */
export async function readCertificate({ certificateFile, keyFile }: CertificateFiles): Promise<Certificate> {
  const read = async (file: string) => {
    try {
      return await Deno.readTextFile(file);
    } catch (error) {
      throw new Error(`Cannot read ${file}: ${(error as Error).message}`, { cause: error });
    }
  };
  return { cert: await read(certificateFile), key: await read(keyFile) };
}

/**
 * Calls `use` with each new pair, until it is disposed.
 *
 * @param use may throw: then the pair in use stays, and the next look tries again.
 */
export class CertificateWatch implements Disposable {
  readonly #timer: ReturnType<typeof setInterval>;
  #looking?: Promise<void>;

  constructor(
    private readonly files: CertificateFiles,
    private seen: Certificate,
    private readonly use: (certificate: Certificate) => Promise<void>,
    private readonly onFault: (error: unknown) => void,
  ) {
    this.#timer = setInterval(() => void this.look(), LOOK_MS);
  }

  /** Looks at once; one look at a time. */
  look(): Promise<void> {
    return this.#looking ??= this.#look().catch(this.onFault).finally(() => this.#looking = undefined);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  async #look(): Promise<void> {
    const found = await readCertificate(this.files);
    if (found.cert === this.seen.cert && found.key === this.seen.key) return;
    await this.use(found);
    this.seen = found;
  }
}
