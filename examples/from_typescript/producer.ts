/** Calls a task of a cloudq app over SQS, and waits for its result in DynamoDB.
 *
 * npm install && npm run build && node producer.js QUEUE_URL TABLE TASK 'JSON_ARGUMENTS'
 */
import { randomUUID } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";
import { DynamoDBClient, GetItemCommand } from "@aws-sdk/client-dynamodb";
import { SendMessageCommand, SQSClient } from "@aws-sdk/client-sqs";

/** The required keys of docs/reference/message-v1.schema.json, and two more. */
interface Message {
  v: 1;
  id: string;
  task: string;
  args: unknown[];
  sent_at: number;
}

const ENDS = new Set(["SUCCESS", "FAILURE", "REVOKED", "REJECTED"]);
const sqs = new SQSClient({});
const dynamodb = new DynamoDBClient({});

async function send(queue: string, task: string, args: unknown[]): Promise<string> {
  const message: Message = { v: 1, id: randomUUID(), task, args, sent_at: Date.now() / 1000 };
  const body = JSON.stringify(message);
  await sqs.send(new SendMessageCommand({ QueueUrl: queue, MessageBody: body }));
  return message.id;
}

/** Return the value of a task, or throw what it failed with. */
async function result(table: string, id: string, seconds = 30): Promise<unknown> {
  const key = { pk: { S: `task#${id}` }, sk: { S: "-" } };
  for (const until = Date.now() + seconds * 1000; Date.now() < until; await pause(250)) {
    const { Item: item } = await dynamodb.send(new GetItemCommand({ TableName: table, Key: key }));
    const state = item?.state?.S ?? "PENDING";
    if (state === "SUCCESS") return JSON.parse(item?.value?.S ?? "null");
    if (ENDS.has(state)) {
      throw new Error(`${state}: ${item?.error_type?.S ?? ""}: ${item?.error?.S ?? ""}`);
    }
  }
  throw new Error(`no result of ${id} in ${seconds} s`);
}

const [queue, table, task, args] = process.argv.slice(2);
if (!queue || !table || !task) throw new Error("give a queue's URL, a table and a task");
try {
  const id = await send(queue, task, JSON.parse(args ?? "[]"));
  console.log(JSON.stringify(await result(table, id)));
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
